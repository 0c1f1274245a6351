"""How results are written for people: numbers, names, and tables as aligned text or Markdown."""

from __future__ import annotations

import html
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crosslign.untrusted import shown

MISSING = "–"
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",  # other characters in LaTeX's old fonts
    "[": "{[}", "]": "{]}", "*": "{*}",  # after a line's end they would be its option and its star
    **{character: f"\\{character}" for character in "#$%&_"},
}  # fmt: skip
Rate = Mapping[str, Any]  # `results`: RATE, or a change


@dataclass(frozen=True)
class Table:
    """A table for people: plain text, of which every form escapes what it must. The first row is the header.

    Fields:
        left: columns whose cells stand left.
        note: how to read it.
    """

    title: str
    rows: Sequence[Sequence[str]]
    note: str = ""
    left: Collection[int] = (0,)


def number(value: float | None, form: str = ".1f") -> str:
    """`12.3`; a dash where there is none, and no sign on what rounds to zero."""
    if value is None:
        return MISSING
    text = format(value, form)
    return text.lstrip("+-") if float(text) == 0 else text


def interval(rate: Rate, form: str = ".1f") -> str:
    """`[8.1, 18.0]`, or a dash."""
    low, high = rate.get("low"), rate.get("high")
    return MISSING if low is None or high is None else f"[{number(low, form)}, {number(high, form)}]"


def p_value(p: float | None) -> str:
    """Three decimals, and never zero."""
    return MISSING if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def one_line(text: object) -> str:
    return shown(" ".join(str(text).split()))


def escape(text: object) -> str:
    """Text that Markdown shows as it is, within one cell of a table."""
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", html.escape(one_line(text), quote=False))


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Each name without the folders of a machine: the last part of a path, hub ids ("org/model") as they are.

    Where two would be equal, both keep as many of their folders as tell them apart.
    """
    parts = {name: re.split(r"[/\\:]+", name.rstrip("/\\")) if _is_path(name) else [name] for name in names}

    def end(name: str, length: int) -> str:
        return "/".join(parts[name][-length:])

    def is_unique(name: str, length: int) -> bool:
        return sum(end(other, length) == end(name, length) for other in parts) == 1

    return {
        name: next((end(name, n) for n in range(1, len(parts[name])) if is_unique(name, n)), name) for name in parts
    }


def _is_path(name: str) -> bool:
    return re.match(r"table:|[/\\~.]|[A-Za-z]:[/\\]", name) is not None or len(re.findall(r"[/\\]", name)) > 1


def aligned(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> str:
    """Lines of columns that are two spaces apart: those whose numbers are in `left` stand left, the others right."""
    rows = [[shown(cell, one_line=True) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) if i in left else cell.rjust(width) for i, (cell, width) in enumerate(pairs))
        for pairs in (zip(row, widths, strict=True) for row in rows)
    )
    return "\n".join(line.rstrip() for line in lines)


def markdown(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> str:
    """A table whose first row is its header. Cells are Markdown: `escape` what comes from outside."""
    rule = ["---" if i in left else "---:" for i in range(len(rows[0]))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:]))


def latex_text(text: object) -> str:
    """Text that LaTeX sets as it is, within one cell of a table."""
    return "".join(_LATEX.get(character, character) for character in one_line(text))


def latex(table: Table) -> str:
    """A table of LaTeX's, with the rules of booktabs."""
    head, *body = (" & ".join(map(latex_text, row)) + r" \\" for row in table.rows)
    columns = "".join("l" if i in table.left else "r" for i in range(len(table.rows[0])))
    caption = " ".join(filter(None, (f"{table.title}.", table.note)))
    return "\n".join(
        (
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{latex_text(caption)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            head,
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        )
    )
