"""The model card: README.md of a finished run, and of what is merged of it; and its metadata for the hub.

Numbers come from the run's record and from results of evaluations, never from anywhere else. Every text that came from
outside (names, notes, languages, settings) is escaped and on one line: what prints it is `_environment`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError
from markupsafe import Markup

from crosslign import baselines
from crosslign.evaluation.report.findings import cautions, findings
from crosslign.evaluation.result_tables import to_markdown
from crosslign.evaluation.tables import escape, interval, markdown, number, one_line, short_names
from crosslign.evaluation.view import Part, View
from crosslign.languages import telling_names
from crosslign.ownership import check_no_link, read_mark
from crosslign.rollouts.vllm import RANKS
from crosslign.runs.arguments import TRAINING_DEFAULTS
from crosslign.runs.config import MethodConfig, StrategyConfig
from crosslign.runs.folder import CARD, NUMBERS, RECORD
from crosslign.runs.sharing.base import HUB_ID, BaseFacts
from crosslign.runs.sharing.evidence import unmeasured, write_numbers
from crosslign.runs.sharing.finished import MOST, FinishedRun
from crosslign.runs.sharing.metadata import METRICS, Form, is_hub_table, metadata, title
from crosslign.runs.sharing.outward import without_folders
from crosslign.storage import write_atomically
from crosslign.types import CrosslignError, cause, excerpt
from crosslign.untrusted import leaves, read_text

BLANK = "[More Information Needed]"  # what the cards of peft and transformers are full of
_WRITERS = {
    "on_policy": "The student of each step writes the completions",
    "off_policy": "The frozen teacher writes the completions",
    "mixed": "Student and frozen teacher both write completions",
}
_DIVERGENCES = {
    "reverse_kl": "reverse KL divergence",
    "forward_kl": "forward KL divergence",
    "jsd": "generalised Jensen-Shannon divergence",
}
_WEIGHTS = {
    "dpsw": "with more weight where the teacher is sure and the student does not follow (DPSW)",
    "teacher": "with more weight where the teacher is sure",
    "student": "with more weight where the student does not follow",
    "uniform": "with equal weights",
}
_CONTEXTS = {
    "instruct": ", which also sees the {source} version and an instruction to judge it there",
    "judged": ", which also sees the {source} version and a judgement of it that it has written before",
    "dialogue": ", which also sees the {source} version and its own answer to that",
}


def write_card(run: FinishedRun, results: Part | None, *, overwrite: bool = False) -> Path:
    """Write README.md and evaluation.json into the run's folder; returns the card's path.

    Raises CrosslignError for a card that somebody has edited, unless `overwrite`.
    """
    place = run.folder / CARD
    check_no_link(place, run.folder / NUMBERS)
    known = read_mark(run.folder / NUMBERS)
    if (run.folder / NUMBERS).exists() and "card_sha256" not in known:
        raise CrosslignError(f"{run.folder / NUMBERS}: was not written by crosslign. Move it away.")
    if place.exists() and not overwrite:
        text = read_text(place, "FILE_MB")
        if BLANK not in text and _sha256(text) != known.get("card_sha256"):
            raise CrosslignError(f"{place}: was written or changed by somebody. Replace it with --overwrite.")
    put_card(run.folder, card_text(run, results, "adapter" if run.is_adapter else "full"), results)
    return place


def put_card(folder: Path, text: str, results: Part | None) -> None:
    """A card, with the numbers that it shows, in the place of an older one."""
    write_numbers(folder, results, _sha256(text))
    write_atomically(folder / CARD, text)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


def card_text(
    run: FinishedRun,
    results: Part | None,
    form: Form,
    *,
    merged: Mapping[str, Any] | None = None,
) -> str:
    """The card. `merged`: what `models.merge.Merged` says, for the form "merged"."""
    try:
        text = _render(run, without_folders(results), form, merged)
    except (UndefinedError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise CrosslignError(
            f"{run.root / RECORD}: is damaged ({cause(error)}). It must be as crosslign train wrote it."
        ) from error
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _render(run: FinishedRun, results: Any, form: Form, merged: Mapping[str, Any] | None) -> str:
    config, record = run.config, run.record
    base = run.base
    view = None if results is None else View(results)
    source = config.data.source_language
    trained = list(dict.fromkeys(record["languages"]))
    names = telling_names(dict.fromkeys([source, *trained]))
    targets = [code for code in trained if code != source] or trained
    template = config.teacher.template if isinstance(config.teacher.template, str) else ""
    is_hub = base.kind == "hub"
    before, after = (record["divergence"].get(when) or {} for when in ("before", "after"))
    return str(
        _environment()
        .get_template("card.md.j2")
        .render(
            metadata=Markup(f"---\n{metadata(run, base, view, form).to_yaml()}\n---"),  # noqa: S704
            title=f"{title(base)}, aligned in {_listed(list(map(names.__getitem__, targets)))}",
            form=form,
            base=_link(str(base.name)) if is_hub else base.name,
            base_name=base.name,
            kind=base.kind,
            revision=f" at {config.model.revision}" if config.model.revision else "",
            licence=_licence(base),
            target_names=_listed([names[code] for code in targets]),
            language_list=", ".join(f"{names[code]} ({code})" for code in trained),
            source=source,
            source_name=names[source],
            record=record,
            about=_about(config.method),
            moves=bool(config.method.options.get("teacher_rate")),
            teacher_sees=_CONTEXTS.get(template, ", in a context of its own").format(source=names[source]),
            who_writes=_WRITERS.get(config.strategy.name, f"The strategy {config.strategy.name} says who writes"),
            divergence=_DIVERGENCES[config.objective.divergence],
            weighting=_WEIGHTS[config.objective.weighting],
            data_table=_markdown(_data(run)),
            gate=record["gate"],
            settings_table=_markdown(_settings(run)),
            before=before,
            after=after,
            view=view,
            how_measured=_how_measured(view),
            results_table=_markdown(_results(view, trained, source)) if view else "",
            findings=findings(view) if view else (),
            cautions=cautions(view) if view else (),
            every_number=Markup(to_markdown(results)) if view else "",  # noqa: S704  it escapes
            unmeasured=unmeasured(view, trained),
            load_base=_code(_load_base(run, base)),
            serve_base=_code(shlex.quote(one_line(base.name))),
            rank=next((r for r in RANKS if r >= config.model.lora.r), config.model.lora.r),
            ask=_code(_ask(run)),
            quantization=config.model.quantization if run.is_adapter else None,
            merged=merged,
            step=run.step,
        )
    )


@lru_cache(maxsize=1)
def _environment() -> Environment:
    """Templates that write every text as Markdown shows it, on one line; only `Markup` stands as it is."""
    environment = Environment(
        loader=PackageLoader("crosslign.runs.sharing", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else Markup(_shown(value)),  # noqa: S704
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number}
    return environment


def _shown(value: Any, most: int = 20 * MOST) -> str:
    """Text as Markdown shows it, on one line; an address in it becomes no link."""
    return escape(excerpt(one_line(value), most)).replace("://", ":&#47;&#47;")


def _markdown(rows: Sequence[Sequence[Any]]) -> Markup:
    """A table whose cells are escaped here."""
    cells = [[_shown(cell, MOST) for cell in row] for row in rows]
    return Markup(markdown(cells, left=range(len(cells[0]))))  # noqa: S704


def _code(text: str) -> Markup:
    """For a block of code, which a line of three backticks would end."""
    return Markup(text.replace("```", "'''"))  # noqa: S704


def _link(name: str) -> Markup:
    return Markup(f"[{name}](https://huggingface.co/{name})") if HUB_ID.fullmatch(name) else Markup(_shown(name))  # noqa: S704


def _listed(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _licence(base: BaseFacts) -> Any:
    if base.license is None:
        return "the base model's. Its card names none, or was not there to be read: look before you use it"
    name = base.license_name or base.license
    link = base.license_link
    return Markup(f"[{_shown(name)}]({link}), the base model's") if link else f"{name}, the base model's"  # noqa: S704


def _data(run: FinishedRun) -> list[list[Any]]:
    """Each table with its fingerprint, its place in the mix, and all else that the record says of it."""
    rows: list[list[Any]] = [["table", "rows", "weight", "fingerprint", "where it comes from"]]
    for table, entry in zip(run.config.data.tables, run.record["data"], strict=True):
        more = {key: value for key, value in entry.items() if key not in ("table", "rows", "fingerprint")}
        place = "the hub" if is_hub_table(table.path) else "a file"
        place = "ships with crosslign" if table.path.startswith("builtin:") else place
        place += f" at {table.revision}" if table.revision else ""
        about = "; ".join([place, *(f"{key}: {one_line(value)}" for key, value in leaves(without_folders(more), CARD))])
        name = short_names([table.path])[table.path]
        rows.append([name, entry["rows"], f"{table.weight:g}", entry["fingerprint"], about])
    return rows


def _about(method: MethodConfig) -> str:
    """What a card says of a method that it is compared with; "" for the method itself."""
    if method.name == "msd":
        return ""
    try:
        said = baselines.get(method.name, method.options).about
    except CrosslignError:  # its package is not here
        said = ""
    return said or f"the method {method.name}"


def _settings(run: FinishedRun) -> list[list[Any]]:
    config, training = run.config, {**TRAINING_DEFAULTS, **run.config.training}
    model, objective, sampling = config.model, config.objective, config.sampling
    keys = ("per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "lr_scheduler_type")
    rows: list[list[Any]] = [
        ["setting", "value"],
        ["trained", "LoRA adapter" if run.is_adapter else "all weights"],
        ["steps", f"{run.step} of {run.record['steps']}"],
    ]
    if run.is_adapter:
        layers = model.lora.target_modules or "peft's choice of layers"
        layers = layers if isinstance(layers, str) else ", ".join(layers)
        rows.append(["LoRA", f"r {model.lora.r}, alpha {model.lora.alpha}, {layers}"])
    template = config.teacher.template
    loss = f"{objective.divergence}, {objective.weighting} (K {objective.top_k}), temperature {objective.temperature:g}"
    sampled = f"temperature {sampling.temperature:g}, top_p {sampling.top_p:g}"
    rows += [
        ["type of the weights", model.dtype + (f", base in {model.quantization}" if model.quantization else "")],
        *([["strategy", _with_options(config.strategy)], ["objective", loss]] if config.method.name == "msd" else []),
        *([["method", _with_options(config.method)]] if config.method.name != "msd" or config.method.options else []),
        ["teacher's template", without_folders(template) if isinstance(template, str) else "its own"],
        *([["teacher's temperature", f"{config.teacher.temperature:g}"]] if config.teacher.temperature != 1 else []),
        ["completions", f"at most {sampling.max_completion_length} tokens, {sampled}"],
        *([key, training[key]] for key in keys),
        *([f"changed at step {r['step']}", _changes(r["training"])] for r in run.record["resumed"] if r["training"]),
        ["seed", config.seed],
        ["seconds of training", run.record["seconds"] or "–"],
        ["versions", ", ".join(f"{k} {v}" for k, v in run.record["versions"].items())],
    ]
    return rows


def _changes(training: Mapping[str, Sequence[Any]]) -> str:
    told = {key: ["default" if value is None else value for value in both] for key, both in training.items()}
    return ", ".join(f"{key} {before} → {after}" for key, (before, after) in told.items())


def _with_options(named: MethodConfig | StrategyConfig) -> str:
    return " ".join([named.name, *(f"{k}={v}" for k, v in named.options.items())])


def _how_measured(view: View | None) -> str:
    if view is None:
        return ""
    manifest = view.manifests[-1]
    judges = " and ".join(dict.fromkeys(task.judge for task in view.tasks))
    cut = manifest.get("limit")
    rows = f", at most {cut} rows of each task" if cut else ""
    date = f" on {manifest['date']}" if manifest.get("date") else ""
    return f"Judged by {judges}{rows}{date}."


def _results(view: View, trained: Sequence[str], source: str) -> list[list[Any]]:
    """A row for each language and for the mean; of each task the rate that matters, and malformed answers."""
    head = ["language", "trained"]
    for task in view.tasks:
        head += [f"{METRICS[task.metric]}: {task.title}", f"invalid: {task.title}"]
    rows: list[list[Any]] = [head]
    by_task = [{row.key: row for row in (*task.languages, task.all)} for task in view.tasks]
    for code in [*view.names, "all"]:
        if not any(code in found for found in by_task):
            continue
        name = "mean" if code == "all" else f"{view.names[code]} ({code})"
        is_trained = "" if code == "all" else "yes" if code in trained else "no"
        cells: list[Any] = [name, is_trained + (", source" if code == source else "")]
        for task, found in zip(view.tasks, by_task, strict=True):
            row = found.get(code)
            for metric in (task.metric, "invalid"):
                cells.append("–" if row is None else " → ".join(map(_rate, row.rates(metric))))
        rows.append(cells)
    return rows


def _rate(rate: Part) -> str:
    return "too few rows" if rate["value"] is None else f"{number(rate['value'])} {interval(rate)}"


def _load_base(run: FinishedRun, base: BaseFacts) -> str:
    """The first arguments of `from_pretrained`."""
    name = json.dumps(one_line(base.name))
    if base.kind == "gguf":
        return f'".", gguf_file={name}'
    return name + (f", revision={json.dumps(run.config.model.revision)}" if run.config.model.revision else "")


def _ask(run: FinishedRun) -> str:
    """Python that asks the loaded model something, as it was asked in training."""
    student = run.config.student
    messages = student.messages or [{"role": "user", "content": "{query}"}]
    said = {"{query}": "How do I boil an egg?", "{language}": "English", "{source_language}": "English"}
    filled = [dict(message) for message in messages]
    for message, (placeholder, value) in itertools.product(filled, said.items()):
        message["content"] = message["content"].replace(placeholder, value)
    options = "".join(f", {key}={value!r}" for key, value in student.chat_template_kwargs.items() if key.isidentifier())
    return "\n".join(
        [
            f"messages = {json.dumps(filled, ensure_ascii=False)}",
            f"asked = tokenizer.apply_chat_template(\n    messages, add_generation_prompt=True, return_dict=True, "
            f'return_tensors="pt"{options}\n)',
            "answer = model.generate(**asked, max_new_tokens=256)",
            'print(tokenizer.decode(answer[0, asked["input_ids"].shape[1] :], skip_special_tokens=True))',
        ]
    )
