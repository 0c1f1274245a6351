"""The `apertium` translator: the command line of Apertium, rule-based and offline, where it is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from crosslign.http import transmissible
from crosslign.languages import is_language, matching_code
from crosslign.translation.base import Keep, Translation, unsupported
from crosslign.translation.registry import translators
from crosslign.types import CrosslignError, excerpt

SECONDS = 600  # that one call may take
LINES = 500  # of one call
# Every line break that some program might see; Apertium gets one text's lines one by one.
_BREAKS = re.compile(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+")


class ApertiumTranslator:
    """Calls `apertium -f line PAIR`; the pairs are those that `apertium -l` lists.

    Words that it does not know stay as they are. It often translates what stands in braces, which the checks then find.
    """

    name = "apertium"

    def __init__(self, command: str = "apertium") -> None:
        found = shutil.which(command)
        if found is None:
            raise CrosslignError(
                f"translator 'apertium' needs the program {command}, which is not there. Install it and a pair, for "
                "example with `apt-get install apertium apertium-en-es`."
            )
        self.command = found

    def identity(self) -> Mapping[str, Any]:
        return {"kind": self.name, "version": self._call(["-V"]).strip(), "pairs": ", ".join(sorted(self.pairs))}

    @cached_property
    def pairs(self) -> dict[str, tuple[str, str]]:
        """The installed directions, such as `eng-spa`, with the two codes in each."""
        names = self._call(["-l"]).split()
        parts = {name: name.split("-", 1) for name in names if "-" in name}
        return {name: (codes[0], codes[1]) for name, codes in parts.items() if all(map(_plain, codes))}

    def pair(self, source: str, target: str) -> str:
        """The direction for two languages. Raises CrosslignError, which names the nearest, if it is not installed."""
        first = matching_code(source, {one for one, _ in self.pairs.values()})
        targets = {two: name for name, (one, two) in self.pairs.items() if one == first}
        second = matching_code(target, targets)
        if first is None:
            raise unsupported(self.name, source, target, source, {one for one, _ in self.pairs.values()})
        if second is None:
            raise unsupported(self.name, source, target, target, targets)
        return targets[second]

    def check(self, source: str, target: str) -> None:
        self.pair(source, target)

    def translate(self, texts: Sequence[str], source: str, target: str, keep: Keep) -> None:
        pair = self.pair(source, target)
        waiting: list[tuple[int, list[str]]] = []
        for index, text in enumerate(texts):
            waiting.append((index, _BREAKS.split(transmissible(text))))
            if sum(len(lines) for _, lines in waiting) >= LINES or index + 1 == len(texts):
                said = iter(self._lines(pair, [line for _, lines in waiting for line in lines]))
                for number, lines in waiting:
                    keep(number, Translation("\n".join(next(said) for _ in lines).strip()))
                waiting = []

    def _lines(self, pair: str, lines: Sequence[str]) -> list[str]:
        said = self._call(["-u", "-f", "line", pair], "".join(f"{line}\n" for line in lines)).split("\n")
        if said and said[-1] == "":
            said.pop()
        if len(said) != len(lines):
            raise CrosslignError(
                f"translator 'apertium': {pair} gave {len(said)} lines for {len(lines)}. Is the pair damaged? Install "
                "it again, or use another translator."
            )
        return said

    def _call(self, arguments: Sequence[str], text: str = "") -> str:
        """What the program prints. Raises CrosslignError if it fails or takes too long."""
        try:
            done = subprocess.run(  # noqa: S603  a list, no shell
                [self.command, *arguments], input=text.encode(), capture_output=True, timeout=SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CrosslignError(f"translator 'apertium': {self.command} failed: {error}.") from error
        if done.returncode != 0:
            words = " ".join(done.stderr.decode("utf-8", "replace").split())
            raise CrosslignError(
                f"translator 'apertium': {self.command} {' '.join(arguments)} ended with {done.returncode}: "
                f"{excerpt(words) or 'no message'}."
            )
        return done.stdout.decode("utf-8", "replace")


def _plain(code: str) -> bool:
    """Whether a part of a pair's name is the code of a language, and not that of a variety such as cat_valencia."""
    return "_" not in code and is_language(code)


@translators.register("apertium")
def _apertium(argument: str = "apertium") -> ApertiumTranslator:
    return ApertiumTranslator(argument)
