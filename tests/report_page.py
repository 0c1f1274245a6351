"""The rendered page, read as a browser reads it, for the report's tests."""

from __future__ import annotations

import json
import re
from typing import Any
from xml.etree.ElementTree import Element

import html5lib

_DATA = re.compile(r'(<script type="application/json" id="data">)(.*?)(</script>)', re.DOTALL)


def parse(page: str) -> Element:
    """The page's tree by the HTML standard's own algorithm; any parse error fails.

    The transcripts are left out, which is faster: no "<" is in them, or else the pattern would not end where it does.
    """
    for _, data, _ in _DATA.findall(page):
        assert "<" not in data
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(_DATA.sub(r"\1\3", page))


def transcripts(page: str) -> list[dict[str, Any]]:
    """The rows of the transcripts inside the page."""
    [(_, data, _)] = _DATA.findall(page)
    return json.loads(data)["rows"]


def local(node: Element) -> str:
    return str(node.tag).rpartition("}")[2]


def by_id(tree: Element, name: str) -> Element:
    [node] = [node for node in tree.iter() if node.get("id") == name]
    return node


def text_of(node: Element) -> str:
    return " ".join("".join(node.itertext()).split())


def table(tree: Element, section: str, caption: str) -> dict[str, list[str]]:
    """A table's rows: the texts of its cells by the text of its row heading; several rows of one heading in one list.

    "" has the column headings. Captions are told apart by how they begin.
    """
    for found in (node for node in by_id(tree, section).iter() if local(node) == "table"):
        if text_of(next(node for node in found if local(node) == "caption")).startswith(caption):
            break
    else:
        raise AssertionError(f"no table {caption!r} in {section}")
    rows: dict[str, list[str]] = {}
    head = ""
    for line in (node for node in found.iter() if local(node) == "tr"):
        cells = list(line)
        if cells[0].get("scope") == "row":
            head = text_of(cells.pop(0))
        rows.setdefault(head, []).extend(text_of(cell) for cell in cells)
    return rows
