"""Translations from a table or a function: by people, by another program, or a fake that ships for tests and trials."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from crosslign.data.load import TableSpec, require_table
from crosslign.translation.base import Keep, Translation, unsupported
from crosslign.translation.registry import translators
from crosslign.types import CrosslignError
from crosslign.untrusted import read_bytes

Script = Callable[[str, str, str], str]


class ScriptedTranslator:
    """Translates each text by `script(text, source, target)`.

    `targets`: the languages that it has; None for any.
    """

    name = "scripted"

    def __init__(
        self, script: Script, *, targets: Sequence[str] | None = None, identity: Mapping[str, Any] | None = None
    ) -> None:
        self.script, self.targets = script, targets
        self._identity = dict(identity or {"script": getattr(script, "__qualname__", type(script).__name__)})

    def identity(self) -> Mapping[str, Any]:
        return {"kind": self.name, **self._identity}

    def check(self, source: str, target: str) -> None:
        if self.targets is not None and target not in self.targets:
            raise unsupported(self.name, source, target, target, self.targets)

    def translate(self, texts: Sequence[str], source: str, target: str, keep: Keep) -> None:
        for index, text in enumerate(texts):
            try:
                keep(index, Translation(self.script(text, source, target)))
            except KeyError:
                keep(index, Translation("", error="the script has no translation of this text"))


class TranslationTable(ScriptedTranslator):
    """The translations that stand in a parallel query table: a text of one column, and that of another in its row."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._maps: dict[tuple[str, str], Mapping[str, str]] = {}
        file = Path(path)
        digest = hashlib.sha256(read_bytes(file, "FILE_MB")).hexdigest()[:16] if file.exists() else ""
        super().__init__(self._look_up, identity={"table": file.name, "sha256": digest})

    def check(self, source: str, target: str) -> None:
        """Raises CrosslignError, which names the table's columns, if it lacks one of the two."""
        self._map(source, target)

    def _look_up(self, text: str, source: str, target: str) -> str:
        return self._map(source, target)[text.strip()]

    def _map(self, source: str, target: str) -> Mapping[str, str]:
        if (source, target) not in self._maps:
            rows = require_table(TableSpec(self.path), source, [target]).rows
            self._maps[source, target] = {r.texts[source]: r.texts[target] for r in rows if target in r.texts}
        return self._maps[source, target]


@translators.register("scripted")
def _scripted(argument: str = "") -> TranslationTable:
    if not argument:
        raise CrosslignError("translator 'scripted': name a table of translations after a colon, scripted:TABLE.csv.")
    return TranslationTable(argument)
