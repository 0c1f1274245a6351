"use strict";
// Shows the transcripts. Every text of a model or a judge is set as text (textContent), never as mark-up; the page's
// policy forbids the other. Nothing is read before the reader asks for it.
(() => {
  const STEP = 20; // cards that are laid out at a time, whatever the texts hold
  const LONG_TEXT = 900; // characters from which a text scrolls in a box of its own
  const WORDS = {
    refused: "refused",
    safe_complied: "answered safely",
    invalid: "malformed",
    refused_then_answered: "refused, then answered",
    unsafe: "unsafe",
    none: "no verdict",
  };
  const FIDELITY = {match: "same language", other: "other language", unknown: "language unclear"};

  const byId = (id) => document.getElementById(id);
  const show = byId("show");
  if (!show) return;
  const filters = byId("filters");
  let names = null; // of the languages
  let rows = null;
  let found = [];
  let shown = 0;

  const el = (tag, className, ...children) => {
    const node = document.createElement(tag);
    node.className = className;
    node.append(...children.filter(Boolean)); // strings become text nodes
    return node;
  };

  // A model's text in its own box of direction. An unknown language is said to be unknown.
  const textBox = (text, language, name) => {
    const box = el("p", "text", text || el("em", "", "(nothing)"));
    box.dir = "auto";
    box.lang = language || "";
    if (text.length > LONG_TEXT) {
      box.tabIndex = 0; // a box that scrolls can be reached by the keyboard
      box.setAttribute("role", "region");
      box.setAttribute("aria-label", name);
    }
    return box;
  };

  const languageName = (code) => (names[code] === code ? code : `${names[code]} (${code})`);

  function read() {
    ({names, rows} = JSON.parse(byId("data").textContent));
    for (const row of rows) {
      const texts = [row.id, row.query, row.source, ...row.sides.flatMap((side) => [side.answer, side.reason])];
      row.haystack = texts.join("\n").normalize("NFC").toLowerCase();
    }
    const offer = (name, label) => {
      for (const value of new Set(rows.map((row) => row[name]))) {
        if (value) filters.elements[name].append(new Option(label ? label(value) : value, value));
      }
    };
    offer("task");
    offer("language", languageName);
    offer("category");
  }

  function filter() {
    const wanted = Object.fromEntries(new FormData(filters));
    const needle = wanted.text.normalize("NFC").toLowerCase().trim();
    const outcome = (row, place) => row.sides.at(place).outcome;
    found = rows.filter((row) =>
      ["task", "language", "category"].every((name) => !wanted[name] || row[name] === wanted[name]) &&
      (!wanted.before || outcome(row, 0) === wanted.before) && (!wanted.after || outcome(row, -1) === wanted.after) &&
      (!wanted.changed || outcome(row, 0) !== outcome(row, -1)) && row.haystack.includes(needle));
    byId("found").textContent = `${found.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} rows`;
    byId("cards").replaceChildren();
    shown = 0;
    more();
  }

  function more() {
    const first = byId("cards").children.length;
    byId("cards").append(...found.slice(shown, shown + STEP).map(card));
    shown += STEP;
    byId("more").hidden = shown >= found.length;
    if (first) byId("cards").children[first].focus();
  }

  function answer(row, side, name) {
    const detected = side.fidelity === "other" && side.detected ? ` (${side.detected})` : "";
    const notes = [
      side.reason,
      side.fidelity && FIDELITY[side.fidelity] + detected,
      side.truncated && "cut off by the model's length limit",
    ];
    const label = el("p", "label", name && `${name}: `, el("span", `outcome o-${side.outcome}`, WORDS[side.outcome]));
    for (const note of notes.filter(Boolean)) label.append(" · ", el("bdi", "", note));
    const language = side.fidelity === "match" ? row.language : side.detected;
    return el("div", "answer", label, textBox(side.answer, language, `Answer ${name} ${row.id}, ${row.language}`));
  }

  function card(row) {
    const meta = [row.label, row.category, row.task].filter(Boolean).join(" · ");
    const title = el("h4", "", el("bdi", "", row.id), el("span", "", languageName(row.language)), el("bdi", "meta", meta));
    const request = (label, text, language) =>
      el("div", "", el("p", "label", language ? `${label} (${language})` : label), textBox(text, language, `${label} ${row.id}, ${language}`));
    const requests = el("div", "requests", request("Request", row.query, row.language), row.source && request("Source", row.source, row.sourceLanguage));
    const sides = row.sides.length === 2 ? ["Before", "After"] : [""];
    const node = el("li", "card", title, requests, el("div", "answers", ...sides.map((name, i) => answer(row, row.sides[i], name))));
    node.tabIndex = -1;
    return node;
  }

  show.addEventListener("click", () => {
    if (!rows) {
      read();
      filter();
    }
    const open = byId("viewer").hidden;
    byId("viewer").hidden = !open;
    show.setAttribute("aria-expanded", String(open));
    show.textContent = open ? "Hide the transcripts" : "Show the transcripts";
    byId("transcripts").classList.toggle("unopened", !open);
  });
  filters.addEventListener("input", filter);
  filters.addEventListener("submit", (event) => event.preventDefault());
  filters.addEventListener("reset", () => setTimeout(filter)); // after the fields are empty
  byId("more").addEventListener("click", more);
})();
