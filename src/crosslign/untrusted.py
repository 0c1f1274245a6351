"""What comes from outside and is not trusted: files on their way in, text on its way to a terminal or a log.

Every limit is far beyond what real work needs, and an environment variable raises it (`LIMITS`).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import stat
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml

from crosslign.types import CrosslignError, excerpt

# CROSSLIGN_MAX_<name> in the environment sets another value.
LIMITS = {
    "FILE_MB": 2_000,  # a table, or another file that is read whole
    "ROWS": 1_000_000,  # of a table
    "COLUMNS": 1_000,  # of a table
    "CELL_CHARACTERS": 10_000_000,  # of one cell of a CSV table: some long prompts have more than csv's own 131,072
    "UNPACKED_MB": 500,  # of an Excel or Parquet file, whose bytes stand for many more
    "CONFIG_KB": 1_000,  # a recipe, a template, a record or another file of settings
    "MODEL_FILE_MB": 200,  # a tokenizer, or an index of weights: a file in a model's folder that is no weights
    "CONFIG_VALUES": 100_000,  # in such a file, with what its aliases stand for
    "DEPTH": 64,  # of lists and mappings within each other
    "SECONDS": 10,  # in which a chat template renders a message, and a regular expression is searched for
}

# What can command a terminal or turn its text around. Joiners stay: Hindi, Persian and emoji need them.
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_COMMANDS_AND_BREAKS = re.compile(rf"{_COMMANDS.pattern}|[\t\n]")


def limit(name: str) -> int:
    """The limit of this name. Raises CrosslignError if the environment sets it to no positive whole number."""
    variable = f"CROSSLIGN_MAX_{name}"
    text = os.environ.get(variable, "")
    if not text:
        return LIMITS[name]
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 16 and int(text) > 0):
        raise CrosslignError(f"{variable}: {text[:40]!r} is no positive whole number.")
    return int(text)


def too_much(where: object, what: str, name: str) -> CrosslignError:
    """The error for what is beyond a limit: `what` says how much there is, such as "has 3000000 rows"."""
    return CrosslignError(f"{where}: {what}; at most {limit(name)} are read. CROSSLIGN_MAX_{name} sets another limit.")


def too_deep(where: object) -> CrosslignError:
    return CrosslignError(
        f"{where}: lists and mappings lie more than {limit('DEPTH')} deep within each other. CROSSLIGN_MAX_DEPTH sets "
        "another limit."
    )


def shown(text: str, *, one_line: bool = False) -> str:
    r"""Text as a terminal or a log may show it: escape sequences and other control characters stand as `\x1b`.

    So do direction marks, line separators and lone surrogates. Line breaks and tabs stay, unless it is to be one line.
    """
    return (_COMMANDS_AND_BREAKS if one_line else _COMMANDS).sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape", "backslashreplace").decode("ascii")


def no_formula(cell: Any) -> Any:
    """A cell of a CSV that only people read. A spreadsheet runs text that begins like a formula: an apostrophe comes
    before it. Numbers stay."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def is_blank(text: str) -> bool:
    """There is nothing to see: white space, control and format characters, halves of surrogate pairs alone."""
    return all(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp", "Zs") for c in text)


# Keys of the usual services, which hold letters of both cases and digits; and addresses with a user or a key in them.
_KEY = re.compile(r"(hf_|[sr]k[-_]|gsk_|xai-|gh[a-z]_|github_pat_)(?=.*\d)(?=.*[a-z])(?=.*[A-Z])[\w-]{20,}")
_ADDRESS = re.compile(r"[\w+.-]+://([^/?#\s]*@|\S*[?&#][\w-]*(token|key|secret|password|signature)=)\S+", re.IGNORECASE)


def holds_secret(text: str) -> bool:
    """Whether a text looks like an API key or token, or like an address with a password or key in it."""
    return bool(_KEY.fullmatch(text) or _ADDRESS.fullmatch(text))


def is_variable(name: str) -> bool:
    """Whether this can be the name of an environment variable, and is not a key that was written in its place."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,99}", name) or holds_secret(name):
        return False
    mixed = len(name) >= 20 and re.search("[a-z]", name) and re.search("[0-9]", name)
    return not mixed or name in os.environ


def rehearse(work: Callable[[], object], what: str) -> None:
    """Do `work` once in a copy of this process, which may take SECONDS and a gigabyte, and goes away with all it made.

    For what may never end, or may grow in one step of the interpreter, so that no thread and no signal's handler could
    stop it: the kernel ends the copy. Only Python code belongs in `work`, since the copy has no other thread. What it
    returns or raises does not matter, but a MemoryError does. Where a process cannot be copied (Windows) it is not
    tried.

    Raises CrosslignError, which begins with `what`, if the work takes more.
    """
    seconds = limit("SECONDS")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that this process has other threads
            child = os.fork()
    except (AttributeError, OSError):
        return
    if child == 0:
        _in_the_copy(work, seconds)
    try:
        _, status = os.waitpid(child, 0)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM:
        raise CrosslignError(f"{what} takes more than {seconds} seconds. CROSSLIGN_MAX_SECONDS sets another limit.")
    if status != 0:
        raise CrosslignError(f"{what} takes more than a gigabyte of memory, or makes far too long a text.")


def _in_the_copy(work: Callable[[], object], seconds: int) -> NoReturn:
    code = 1
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(seconds)
        with contextlib.suppress(OSError, ValueError):  # no /proc: the seconds alone have to do
            import resource

            pages = int(Path("/proc/self/statm").read_text().split()[0])
            _, hard = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 30), hard))
        work()
        code = 0
    except MemoryError:
        pass
    except BaseException:
        code = 0
    finally:
        os._exit(code)  # without what a process does at its end: files, threads and devices are the other one's


def read_bytes(path: Path, name: str = "CONFIG_KB") -> bytes:
    """What a regular file holds; `name` is the limit of its size, one in MB or KB.

    Raises CrosslignError if it cannot be read, is no regular file, or is larger.
    """
    try:
        check_file(path, name)
        return path.read_bytes()
    except OSError as error:
        raise CrosslignError(f"{path}: cannot be read: {error.strerror}.") from error
    except ValueError as error:  # a name with a null character
        raise CrosslignError(f"{str(path)!r}: cannot be read: {error}.") from error


def check_file(path: Path, name: str) -> None:
    """Raises CrosslignError if this is no regular file, or larger than the limit `name`; OSError if it is not there."""
    unit = {"MB": 1_000_000, "KB": 1_000}[name[-2:]]
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise CrosslignError(f"{path}: cannot be read: it is {_kind(found.st_mode)}, not a file.")
    if found.st_size > limit(name) * unit:
        raise too_much(path, f"has {-(-found.st_size // unit)} {name[-2:]}", name)


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def read_text(path: Path, name: str = "CONFIG_KB") -> str:
    """`read_bytes` as UTF-8 text, without a byte order mark, with "\\n" as line ends."""
    data = read_bytes(path, name)
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise CrosslignError(f"{path}: invalid UTF-8 in line {line}. Save the file as UTF-8.") from error


def parse_json(text: str, where: object) -> Any:
    """Raises CrosslignError, which begins with `where`, for what is no JSON or too deep."""
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise too_deep(where) from error
    except ValueError as error:  # no JSON, or a number of thousands of digits
        raise CrosslignError(f"{where}: not JSON: {str(error).splitlines()[0]}.") from error
    if text.count("[") + text.count("{") > limit("DEPTH"):
        for _ in leaves(value, where):
            pass
    return value


def leaves(value: Any, where: object, most: int | None = None) -> Iterator[tuple[str, Any]]:
    """What stands in lists and mappings, each with the keys that lead to it: `data.tables.0.path`.

    Raises CrosslignError for what is too deep (what contains itself is), and for more than `most` values.
    """
    waiting, deepest, count = [("", value, 0)], limit("DEPTH"), 0
    while waiting:
        key, item, depth = waiting.pop()
        count += 1
        if most is not None and count > most:
            raise CrosslignError(f"{where}: has more than {most} values.")
        if not isinstance(item, (Mapping, list, tuple)):
            yield key, item
            continue
        if depth > deepest:
            raise too_deep(where)
        pairs = item.items() if isinstance(item, Mapping) else enumerate(item)
        waiting += [(f"{key}.{name}" if key else str(name), child, depth + 1) for name, child in pairs]


def read_json(path: Path, name: str = "CONFIG_KB") -> dict[str, Any]:
    """The object in a JSON file. Raises CrosslignError if it cannot be read, or holds something else."""
    value = parse_json(read_text(path, name), path)
    if not isinstance(value, dict):
        raise CrosslignError(f"{path}: expected a JSON object, found {type(value).__name__}.")
    return value


def _loader(base: Any) -> Any:
    """`base`, by which 1e-5 is a number: YAML 1.1 reads it as text, and a learning rate wants the number."""
    made: Any = type("_Loader", (base,), {})
    made.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)$"),
        list("-+0123456789"),
    )
    return made


# libyaml's where PyYAML was built with it, as its wheels are: four times as fast, and as safe.
_Loader = _loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def parse_yaml(text: str, where: object = "the text") -> Any:
    """Safe YAML in which `1e-5` is a number.

    Raises CrosslignError, which begins with `where`, for what is no YAML, refers to itself, is too deep, or stands for
    too many values: an alias counts as often as it is used.
    """
    if len(text) > limit("CONFIG_KB") * 1000:
        raise too_much(where, f"has {len(text) // 1000} KB", "CONFIG_KB")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _values(node, {}, 0, where) > limit("CONFIG_VALUES"):
            raise too_much(where, "aliases stand for too many values", "CONFIG_VALUES")
        return loader.construct_document(node)
    except RecursionError as error:
        raise too_deep(where) from error
    except yaml.MarkedYAMLError as error:
        if "nesting depth" in str(error.problem):  # libyaml's own limit
            raise too_deep(where) from error
        at = error.problem_mark or error.context_mark
        line = "" if at is None else f" (line {at.line + 1}, column {at.column + 1})"
        raise CrosslignError(f"{where}: not valid YAML: {error.problem or error.context}{line}.") from error
    except (yaml.YAMLError, ValueError) as error:  # also a number of thousands of digits, or the 40th of May
        raise CrosslignError(f"{where}: not valid YAML: {str(error).splitlines()[0]}.") from error


def _check_keys(node: yaml.MappingNode, where: object) -> None:
    """YAML forbids a key that is there twice; the library takes the last, and what the first one said is lost."""
    seen: set[tuple[str, str]] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if (key.tag, key.value) in seen:
                line = key.start_mark.line + 1
                raise CrosslignError(f"{where}: the key {excerpt(key.value, 100)!r} is there twice (line {line}).")
            seen.add((key.tag, key.value))


def _values(node: yaml.Node, known: dict[int, int | None], depth: int, where: object) -> int:
    """How many values a node stands for. `known` has those that were counted, None for those that are being counted."""
    if id(node) in known:
        count = known[id(node)]
        if count is None:
            line = node.start_mark.line + 1
            raise CrosslignError(f"{where}: not valid YAML: what begins in line {line} contains itself.")
        return count
    if depth > limit("DEPTH"):
        raise too_deep(where)
    known[id(node)] = None
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        _check_keys(node, where)
        children = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    known[id(node)] = count = 1 + sum(_values(child, known, depth + 1, where) for child in children)
    return count
