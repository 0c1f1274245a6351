"use strict";
// Shows the transcripts. Every text of a model or a judge is set as text (textContent), never as mark-up; the page's
// policy forbids the other. Nothing is decoded before the reader asks for it.
(() => {
  const PAGE = 20; // cards on a page: few enough to lay out at once, whatever the texts hold
  const TYPING_MS = 150;
  const LONG_TEXT = 900; // characters from which a text scrolls in a box of its own
  const NONE = "none"; // the filter's word for "no verdict"
  const WORDS = {refused: "refused", safe_complied: "answered safely", invalid: "malformed", unsafe: "unsafe", none: "no verdict"};
  const FIDELITY = {match: "same language", other: "other language", unknown: "language unclear"};

  const byId = (id) => document.getElementById(id);
  const section = byId("transcripts");
  const show = byId("show");
  if (!show) return;
  const compared = section.dataset.kind === "comparison";
  const number = new Intl.NumberFormat("en");
  let data = null;
  let found = [];
  let page = 0;

  const el = (tag, className, ...children) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    node.append(...children.filter((child) => child !== null && child !== "")); // strings become text nodes
    return node;
  };

  // A model's text in its own box of direction. An unknown language is said to be unknown.
  const textBox = (text, language, name) => {
    const box = el("p", "text");
    box.dir = "auto";
    box.lang = language || "";
    box.textContent = text.text;
    if (text.text.length > LONG_TEXT) {
      box.tabIndex = 0; // a box that scrolls can be reached by the keyboard
      box.setAttribute("role", "region");
      box.setAttribute("aria-label", name);
    }
    return box;
  };

  const cutNote = (text) =>
    text.length > text.shown ? el("p", "cut", `Cut: ${number.format(text.shown)} of ${number.format(text.length)} characters are shown.`) : null;

  const languageNames = new Intl.DisplayNames("en", {type: "language", fallback: "none"});
  const languageName = (code) => {
    try {
      const name = languageNames.of(code);
      return name ? `${name} (${code})` : code;
    } catch { // not a code that the browser knows: a testbed's language
      return code;
    }
  };

  const outcomeLabel = (outcome) => el("span", `outcome o-${outcome}`, WORDS[outcome]);

  async function decode() {
    const binary = atob(byId("data").textContent);
    const bytes = Uint8Array.from(binary, (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(stream).json();
  }

  // The characters that stand for letters of an alphabet, in order: transcripts.py, _codes.
  function* codes() {
    for (let code = 0x20; code < 0x110000; code += 1) {
      if (code === 0x7f) code = 0xa0;
      if (code === 0xd800) code = 0xe000;
      const letter = String.fromCodePoint(code);
      if (letter !== '"' && letter !== "\\") yield letter;
    }
  }

  function reader(alphabet) {
    const code = codes();
    const letters = new Map(Array.from(alphabet, (letter) => [code.next().value, letter]));
    return (text) => Array.from(text, (letter) => letters.get(letter)).join("");
  }

  function unpack({outcomes, words, alphabets, rows, limit}) {
    const readers = Object.fromEntries(Object.entries(alphabets).map(([language, letters]) => [language, reader(letters)]));
    const word = (place) => (place === null ? null : words[place]);
    const text = (value, read) => {
      const [start, length] = Array.isArray(value) ? value : [value, 0];
      return {text: read(start), shown: limit, length}; // shorter than `shown`: the text is whole
    };
    const side = (value, read) => value && {
      answer: text(value[0], read),
      outcome: value[1] === null ? NONE : outcomes[value[1]],
      reason: word(value[2]) || "",
      fidelity: word(value[3]),
      truncated: Boolean(value[4]),
      detected: word(value[5]),
    };
    return rows.map(([task, id, language, label, category, query, source, sourceLanguage, ...sides]) => {
      const read = readers[words[language]];
      return {
        task: word(task), id, language: word(language), label: word(label), category: word(category) || "",
        query: text(query, read), source: text([word(source[0]), source[1]], (same) => same),
        sourceLanguage: word(sourceLanguage), sides: sides.map((value) => side(value, read)),
      };
    });
  }

  const outcomeOf = (row, last) => {
    const side = row.sides[last ? row.sides.length - 1 : 0];
    return side ? side.outcome : "";
  };

  function fill(select, values, label = (value) => value) {
    for (const value of values) {
      const option = el("option", "", label(value));
      option.value = value;
      select.append(option);
    }
  }

  const distinct = (values) => [...new Set(values)].filter((value) => value !== "");

  function prepare() {
    for (const row of data) {
      const parts = [row.id, row.query.text, row.source.text, ...row.sides.flatMap((s) => (s ? [s.answer.text, s.reason] : []))];
      row.haystack = parts.join("\n").normalize("NFC").toLowerCase();
    }
    fill(byId("f-task"), distinct(data.map((row) => row.task)));
    fill(byId("f-language"), distinct(data.map((row) => row.language)), languageName);
    fill(byId("f-category"), distinct(data.map((row) => row.category)).sort());
    const outcomes = Object.keys(WORDS);
    if (compared) fill(byId("f-before"), outcomes, (outcome) => WORDS[outcome]);
    fill(byId("f-after"), outcomes, (outcome) => WORDS[outcome]);
  }

  function filter() {
    const value = (id) => (byId(id) ? byId(id).value : "");
    const needle = value("f-text").normalize("NFC").toLowerCase().trim();
    const [task, language, category] = ["f-task", "f-language", "f-category"].map(value);
    const [before, after] = [value("f-before"), value("f-after")];
    const changedOnly = compared && byId("f-changed").checked;
    const base = data.filter((row) =>
      (!task || row.task === task) && (!language || row.language === language) && (!category || row.category === category) &&
      (!needle || row.haystack.includes(needle)) &&
      (!changedOnly || (row.sides.every(Boolean) && outcomeOf(row, false) !== outcomeOf(row, true))));
    found = base.filter((row) => (!before || outcomeOf(row, false) === before) && (!after || outcomeOf(row, true) === after));
    page = 0;
    if (compared) drawMoves(base);
    draw();
  }

  function drawMoves(rows) {
    const outcomes = Object.keys(WORDS);
    const counts = new Map();
    for (const row of rows) {
      if (!row.sides.every(Boolean)) continue;
      const key = `${outcomeOf(row, false)} ${outcomeOf(row, true)}`;
      counts.set(key, (counts.get(key) || 0) + 1);
    }
    const heading = (text, scope) => {
      const cell = el("th", "", text);
      cell.scope = scope;
      return cell;
    };
    const head = el("thead", "", el("tr", "", heading("before ↓, after →", "col"), ...outcomes.map((o) => heading(WORDS[o], "col"))));
    const body = el("tbody", "", ...outcomes.map((before) => el("tr", "", heading(WORDS[before], "row"), ...outcomes.map((after) => {
      const count = counts.get(`${before} ${after}`) || 0;
      if (!count) return el("td", "", "0");
      const button = el("button", "", number.format(count));
      button.type = "button";
      button.setAttribute("aria-label", `${count} from ${WORDS[before]} to ${WORDS[after]}`);
      button.addEventListener("click", () => {
        byId("f-before").value = before;
        byId("f-after").value = after;
        filter();
        byId("found").focus();
      });
      return el("td", "", button);
    }))));
    byId("moves").replaceChildren(el("table", "", head, body));
  }

  function answer(row, side, name) {
    if (!side) return el("div", "answer", el("p", "label", `${name}: no such row on this side`));
    const language = side.fidelity === "match" ? row.language : side.detected;
    const notes = [
      side.reason,
      side.fidelity ? FIDELITY[side.fidelity] + (side.fidelity === "other" && side.detected ? ` (${side.detected})` : "") : "",
      side.truncated ? "cut off by the model's length limit" : "",
    ].filter(Boolean).map((note) => el("bdi", "", note));
    const label = el("p", "label", name ? `${name}: ` : "", outcomeLabel(side.outcome));
    for (const note of notes) label.append(" · ", note);
    const box = textBox(side.answer, language, `Answer${name ? " " + name.toLowerCase() : ""}, ${row.id}, ${row.language}`);
    if (!side.answer.text) box.replaceChildren(el("em", "", "(nothing)"));
    return el("div", "answer", label, box, cutNote(side.answer));
  }

  function card(row) {
    const meta = [row.label, row.category, row.task].filter(Boolean).join(" · ");
    const title = el("h4", "", el("bdi", "", row.id), el("span", "", languageName(row.language)), el("bdi", "meta", meta));
    const query = el("div", "", el("p", "label", `Request (${row.language})`), textBox(row.query, row.language, `Request ${row.id}, ${row.language}`), cutNote(row.query));
    const parts = [query];
    if (row.source.text && row.source.text !== row.query.text) {
      const where = row.sourceLanguage ? ` (${row.sourceLanguage})` : "";
      parts.push(el("div", "", el("p", "label", `Source${where}`), textBox(row.source, row.sourceLanguage, `Source ${row.id}`), cutNote(row.source)));
    }
    const names = compared ? ["Before", "After"] : [""];
    const answers = el("div", compared ? "answers" : "answers one", ...names.map((name, i) => answer(row, row.sides[i], name)));
    return el("li", "card", title, el("div", "requests", ...parts), answers);
  }

  function draw() {
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    byId("cards").replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map(card));
    byId("found").textContent = `${number.format(found.length)} of ${number.format(data.length)} rows`;
    byId("page").textContent = `Page ${number.format(page + 1)} of ${number.format(pages)}`;
    byId("previous").disabled = page === 0;
    byId("next").disabled = page >= pages - 1;
  }

  function turn(by) {
    page += by;
    draw();
    byId("found").focus();
    byId("found").scrollIntoView({block: "start"});
  }

  function reveal(open) {
    byId("viewer").hidden = !open;
    show.setAttribute("aria-expanded", String(open));
    show.textContent = open ? "Hide the transcripts" : "Show the transcripts";
    section.classList.toggle("unopened", !open);
  }

  show.addEventListener("click", async () => {
    if (data) {
      reveal(byId("viewer").hidden);
      return;
    }
    const state = byId("state");
    if (typeof DecompressionStream === "undefined") {
      state.textContent = "This browser cannot unpack the transcripts (it lacks DecompressionStream). Use a newer one, or read completions.jsonl beside the results.";
      return;
    }
    state.textContent = "Unpacking …";
    show.disabled = true;
    try {
      data = unpack(await decode());
      prepare();
      filter();
      reveal(true);
      state.textContent = "";
    } catch (error) {
      data = null;
      state.textContent = `The transcripts in this file are damaged and cannot be unpacked (${error}).`;
    } finally {
      show.disabled = false;
    }
  });

  let waiting = 0;
  byId("f-text").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(filter, TYPING_MS);
  });
  byId("filters").addEventListener("change", (event) => {
    if (event.target.id !== "f-text") filter();
  });
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("reset", () => setTimeout(filter)); // after the fields are empty
  byId("previous").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));
})();
