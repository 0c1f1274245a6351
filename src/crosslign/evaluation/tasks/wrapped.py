"""MultiJail's intentional scenario: a query inside a jailbreak instruction.

In the paper (Deng et al., 2023, arXiv 2310.06474) a user combines the query with an English instruction that is meant
to make the model answer it; they take one that is known as AIM, and name where it is published. No such text ships
with this package. The wrapper is a text file in which {query} stands for the query; the bundled one is neutral, and
shows what a wrapper's form alone does. To measure the intentional scenario, give the file of your own:

    get_task("multijail_intentional", {"wrapper": "aim.txt"})
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path

from crosslign.evaluation.tasks.base import Place, Reading, Task, registry
from crosslign.evaluation.tasks.sets import multijail
from crosslign.types import CrosslignError

PLACEHOLDER = "{query}"
NEUTRAL = "wrappers/neutral.txt"


@registry.register("multijail_intentional")
def multijail_intentional(wrapper: str | None = None) -> Task:
    """MultiJail with every query inside the text of the file `wrapper` (None: the neutral one).

    The wrapper is part of the version: two runs with different wrappers are not the same task.
    """
    inner, around = multijail(), _wrapper_text(wrapper)

    def wrapped(text: str) -> str:
        return around.replace(PLACEHOLDER, text)  # not format(): wrappers and queries may hold other braces

    def read(place: Place, source_language: str, languages: Sequence[str] | None) -> Reading:
        """What MultiJail's reader gives, queries and their source texts inside the wrapper. Ids stay."""
        reading = inner.reader(place, source_language, languages)
        queries = [replace(q, text=wrapped(q.text), source_text=wrapped(q.source_text)) for q in reading.queries]
        return replace(reading, queries=queries)

    version = f"{inner.version}+{hashlib.sha256(around.encode()).hexdigest()[:10]}"
    return replace(inner, name="multijail_intentional", version=version, reader=read)


def _wrapper_text(path: str | None) -> str:
    """The text of a wrapper file, its last line ends left out. Raises CrosslignError if it does not hold {query}."""
    folder = resources.files("crosslign.evaluation.tasks")
    file = folder.joinpath(NEUTRAL) if path is None else Path(path).expanduser()
    try:
        text = file.read_text(encoding="utf-8-sig").rstrip("\n")
    except UnicodeDecodeError as error:
        raise CrosslignError(f"{path}: the wrapper is not UTF-8 (byte {error.start}). Save it as UTF-8.") from error
    except OSError as error:
        raise CrosslignError(f"{path}: the wrapper cannot be read: {error.strerror}.") from error
    if PLACEHOLDER not in text:
        raise CrosslignError(f"{path}: the wrapper has no {PLACEHOLDER}; write it where the query belongs.")
    return text
