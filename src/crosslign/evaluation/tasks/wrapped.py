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
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from crosslign.evaluation.tasks.base import Kind, Source, Task, TaskData, task_data
from crosslign.evaluation.tasks.registry import registry
from crosslign.evaluation.tasks.sets import multijail
from crosslign.types import CrosslignError

PLACEHOLDER = "{query}"
NEUTRAL = "wrappers/neutral.txt"


@registry.register("multijail_intentional")
def multijail_intentional(wrapper: str | None = None) -> Task:
    """MultiJail with every query inside the text of the file `wrapper` (None: the neutral one)."""
    inner = replace(multijail(), name="multijail_intentional")  # the name that its errors give
    if wrapper is None:
        bundled = resources.files("crosslign.evaluation.tasks").joinpath(NEUTRAL)
        return Wrapped(inner, bundled.read_text(encoding="utf-8").rstrip("\n"))
    return Wrapped(inner, read_wrapper(wrapper))


def read_wrapper(path: str) -> str:
    """The text of a wrapper file, its last line ends left out. Raises CrosslignError if it does not hold {query}."""
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8-sig").rstrip("\n")
    except UnicodeDecodeError as error:
        raise CrosslignError(f"{path}: the wrapper is not UTF-8 (byte {error.start}). Save it as UTF-8.") from error
    except OSError as error:
        raise CrosslignError(f"{path}: the wrapper cannot be read: {error.strerror}.") from error
    if PLACEHOLDER not in text:
        raise CrosslignError(f"{path}: the wrapper has no {PLACEHOLDER}; write it where the query belongs.")
    return text


@dataclass(frozen=True)
class Wrapped:
    """A task whose queries, and their source texts, are those of another inside a wrapper.

    The wrapper is part of the version: two runs with different wrappers are not the same task.
    """

    inner: Task
    wrapper: str

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def version(self) -> str:
        return f"{self.inner.version}+{hashlib.sha256(self.wrapper.encode()).hexdigest()[:10]}"

    @property
    def kind(self) -> Kind:
        return self.inner.kind

    @property
    def languages(self) -> tuple[str, ...]:
        return self.inner.languages

    @property
    def source(self) -> Source:
        return self.inner.source

    @property
    def licence(self) -> str:
        return self.inner.licence

    @property
    def citation(self) -> str:
        return self.inner.citation

    @property
    def gated(self) -> bool:
        return self.inner.gated

    def load(
        self,
        languages: Sequence[str] | None = None,
        *,
        path: str | None = None,
        limit: int | None = None,
        skip: int = 0,
        source_language: str = "en",
    ) -> TaskData:
        """See `Task.load`; ids are those of the unwrapped task."""
        data = self.inner.load(languages, path=path, limit=limit, skip=skip, source_language=source_language)
        # replace() and not format(): wrappers and queries may hold other braces.
        queries = [
            replace(
                q,
                text=self.wrapper.replace(PLACEHOLDER, q.text),
                source_text=self.wrapper.replace(PLACEHOLDER, q.source_text),
            )
            for q in data.queries
        ]
        return task_data(self, data.languages, queries, data.notes)
