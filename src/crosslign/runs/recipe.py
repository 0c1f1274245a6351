"""Recipes: YAML with command-line flags laid over it, as checked configuration; errors name the key and the fix."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from crosslign.runs.config import RunConfig, Section
from crosslign.types import CrosslignError, excerpt, nearest
from crosslign.untrusted import holds_secret, leaves, limit, parse_yaml, read_text, shown

MOST_MISTAKES = 10  # that are told at once
SECRETS = "Keep it in the environment: HF_TOKEN (or `hf auth login`), or the variable that api_key_env names."
_SECRET_NAME = re.compile(r"(^|[._])(token|secret|password|api_?key)$", re.IGNORECASE)
AnySection = TypeVar("AnySection", bound=Section)


def read_recipe(path: str | Path) -> dict[str, Any]:
    """The mapping in a recipe file. Raises CrosslignError if it is missing or not a YAML mapping."""
    raw = parse_yaml(read_text(Path(path)), path)
    if not isinstance(raw, dict):
        raise CrosslignError(f"{path}: a recipe is a mapping of sections such as 'model:' and 'data:'.")
    return raw


def load_recipe(path: str | Path, arguments: Sequence[str] = ()) -> RunConfig:
    """A recipe file with command-line flags laid over it, checked."""
    return parse_config(override(read_recipe(path), arguments), str(path))


def configuration(recipe: str | Path | Mapping[str, Any], changes: Mapping[str, Any]) -> RunConfig:
    """A recipe file, or the mapping itself, with changes laid over it, checked."""
    if isinstance(recipe, Mapping):
        return parse_config(merged(recipe, changes), "recipe")
    return parse_config(merged(read_recipe(recipe), changes), str(recipe))


def merged(raw: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`changes` laid over `raw`, mappings key by key."""
    result = dict(raw)
    for key, value in changes.items():
        old = _opened(key, result.get(key)) if isinstance(value, Mapping) else None
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def override(raw: Mapping[str, Any], arguments: Sequence[str]) -> dict[str, Any]:
    """Lay command-line flags (`--section.key value` or `--section.key=value`) over a recipe.

    Values are YAML: numbers, lists and mappings are read as such. A number in a key is a list's index:
    `--data.tables.0.path FILE`.
    """
    result: Any = copy.deepcopy(dict(raw))
    queue = list(arguments)
    while queue:
        flag = queue.pop(0)
        if not flag.startswith("--"):
            raise CrosslignError(f"unexpected argument {flag!r}; configuration flags look like --section.key value.")
        key, equals, text = flag[2:].partition("=")
        if not equals:
            if not queue:
                raise CrosslignError(f"the flag {flag} has no value.")
            text = queue.pop(0)
        _put(result, _keys(key), parse_yaml(text, flag), flag)
    return result


def _opened(key: str, value: Any) -> Any:
    """A section for which a name alone stands (`method: dpo`), as a mapping that takes more keys."""
    name = {"method": "name", "judge": "names"}.get(key)
    return {name: value} if name is not None and isinstance(value, (str, list)) else value


def _keys(text: str) -> list[str]:
    """`top-k` is `top_k`, but the names of languages and columns are the table's own."""
    parts = text.split(".")
    own = next((n + 1 for n, part in enumerate(parts) if part in ("columns", "where")), len(parts))
    return [part.replace("-", "_") for part in parts[:own]] + parts[own:]


def _put(node: Any, keys: list[str], value: Any, flag: str) -> None:
    for position, key in enumerate(keys):
        last = position == len(keys) - 1
        if isinstance(node, list):
            if not re.fullmatch("[0-9]{1,9}", key) or int(key) >= len(node):
                raise CrosslignError(f"{flag}: {excerpt(repr(key), 100)} is no index of a list of {len(node)}.")
            if last:
                node[int(key)] = value
            node = node[int(key)]
        elif not isinstance(node, dict):
            raise CrosslignError(
                f"{flag}: {'.'.join(keys[:position])} is {excerpt(repr(node), 100)}, which has no keys."
            )
        else:
            if last:
                node[key] = value
                return
            if not isinstance(node.get(key), (dict, list)) or not keys[position + 1].isdecimal():
                node[key] = _opened(key, node.get(key))
            if not isinstance(node[key], (dict, list)):
                node[key] = {}
            node = node[key]


def parse_config(raw: Mapping[str, Any], where: str = "configuration") -> RunConfig:
    """Check a mapping and make it a RunConfig. Raises CrosslignError that lists every mistake with its key."""
    return parse_section(RunConfig, raw, where)


def parse_section(section: type[AnySection], raw: Any, where: str) -> AnySection:
    """Check a mapping and make it a section. Raises CrosslignError that lists every mistake with its key."""
    if mistakes := list(_refused(raw, where)):
        raise _mistakes(where, mistakes)
    try:
        return section.model_validate(raw)
    except ValidationError as error:
        raise _mistakes(where, _explain(section, error)) from None  # it quotes all values


def _mistakes(where: str, lines: list[str]) -> CrosslignError:
    more = [f"... and {len(lines) - MOST_MISTAKES} more mistakes."] if len(lines) > MOST_MISTAKES else []
    return CrosslignError("\n".join(f"{where}: {line}" for line in lines[:MOST_MISTAKES] + more))


def _refused(raw: Any, where: str) -> Iterator[str]:
    """Mistakes of any key, which are looked for first: no message may quote a secret or a number without end."""
    for key, value in leaves(raw, where, limit("CONFIG_VALUES")):
        name = _shown_key(key)
        if isinstance(value, str) and holds_secret(value):
            yield f"{name}: this looks like a secret, and a configuration is shown and saved. {SECRETS}"
        elif value is not None and key.startswith("training.") and _SECRET_NAME.search(key):
            yield f"{name}: a secret, and a configuration is shown and saved. {SECRETS}"
        elif isinstance(value, float) and not math.isfinite(value):
            yield f"{name}: {value} is no finite number."
        elif isinstance(value, int) and value.bit_length() > 1000:
            yield f"{name}: a number of more than 300 digits."


def _shown_key(key: str) -> str:
    return excerpt(shown(key, one_line=True), 100)


def _explain(section: type[Section], error: ValidationError) -> list[str]:
    lines = []
    for item in error.errors(include_url=False):
        key = _shown_key(".".join(str(part) for part in item["loc"]))
        if item["type"] == "extra_forbidden":
            inner = section
            for part in item["loc"][:-1]:
                inner = inner if isinstance(part, int) else _section_of(inner.model_fields[part].annotation) or inner
            lines.append(f"unknown key {key!r}. {nearest(str(item['loc'][-1])[:100], list(inner.model_fields))}")
        elif item["type"] == "missing":
            lines.append(f"the key {key!r} is missing.")
        elif item["type"] == "value_error":  # ours, and it says what is needed: the value may be a secret
            lines.append(f"{key}: {item['msg'].removeprefix('Value error, ')}.")
        else:
            hint = " YAML reads no, yes, on and off as true or false: write them in quotes."
            found = excerpt(repr(item["input"]), 100)
            hint = hint if item["type"] == "string_type" and isinstance(item["input"], bool) else ""
            lines.append(f"{key}: {item['msg'][0].lower()}{item['msg'][1:]} (found {found}).{hint}")
    return lines


def _section_of(annotation: Any) -> type[Section] | None:
    """The section in an annotation such as `Section`, `Section | None` or `list[Section]`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section_of(part)) is not None), None)


def describe(section: type[Section] = RunConfig, prefix: str = "") -> list[tuple[str, str, str]]:
    """(key, default, explanation) of every configuration key, for `--help` and the documentation."""
    rows: list[tuple[str, str, str]] = []
    for name, item in section.model_fields.items():
        key, inner = f"{prefix}{name}", _section_of(item.annotation)
        is_list = getattr(item.annotation, "__origin__", None) is list
        if inner is not None and is_list:
            rows += describe(inner, f"{key}.N.")
            continue
        if inner is None or inner is not item.annotation:
            # What it means to leave a whole section out comes before its keys.
            default = "required" if item.is_required() else _one_line(item.default)
            rows.append((key, default, " ".join((item.description or "").split())))
        if inner is not None:
            rows += describe(inner, f"{key}.")
    return rows


def _one_line(value: Any) -> str:
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    text = yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=math.inf)
    return text.removesuffix("\n...\n").strip()


def dump(config: RunConfig) -> str:
    """The resolved configuration as YAML; reading it back gives the same run."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
