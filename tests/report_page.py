"""The rendered page, read as a browser reads it, for the report's tests."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any
from xml.etree.ElementTree import Element

import html5lib

BLOCK = re.compile(r'(<script type="text/plain" id="data">)([A-Za-z0-9+/=]*)(</script>)')


# The characters that stand for the letters of an alphabet, in order; enough of them for any test.
CODES = [chr(c) for c in (*range(0x20, 0x7F), *range(0xA0, 0xD800), *range(0xE000, 0x20000)) if chr(c) not in '"\\']


def parse(page: str) -> Element:
    """The page's tree by the HTML standard's own algorithm; any parse error fails.

    The transcripts' block is left out, which is faster, if it is nothing but base64.
    """
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(BLOCK.sub(r"\1\3", page))


def parse_without_style_and_script(page: str) -> Element:
    """The same, faster still, for pages by the hundred: style and script are the package's own and always the same."""
    return parse(re.sub(r"(<style>|<script>).*?(</style>|</script>)", r"\1\2", page, flags=re.DOTALL))


def local(node: Element) -> str:
    return str(node.tag).rpartition("}")[2]


def by_id(tree: Element, name: str) -> Element:
    [node] = [node for node in tree.iter() if node.get("id") == name]
    return node


def text_of(node: Element) -> str:
    return " ".join("".join(node.itertext()).split())


def marked(tree: Element, attribute: str) -> Iterator[Element]:
    return (node for node in tree.iter() if isinstance(node.tag, str) and node.get(attribute) is not None)


def follow(results: Any, path: str) -> Any:
    """RFC 6901, written again so that the page's own reading is not its own witness."""
    for key in path.split("/")[1:]:
        name = key.replace("~1", "/").replace("~0", "~")
        results = results[name] if isinstance(results, Mapping) else results[int(name)]
    return results


def written(value: Any, kind: str) -> str:
    """What the page's documented rounding makes of a value, by decimal arithmetic."""
    if kind == "text":
        return "none" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    exact = Decimal(value)
    if kind == "count":
        assert exact == int(exact)
        return f"{int(exact):,}"
    if kind == "p":
        return "<0.001" if exact < Decimal("0.001") else str(exact.quantize(Decimal("0.001"), ROUND_HALF_EVEN))
    rounded = exact.quantize(Decimal("0.01") if kind == "kappa" else Decimal("0.1"), ROUND_HALF_EVEN)
    sign = "\u2212" if rounded < 0 else "+" if kind == "difference" and rounded > 0 else ""
    return sign + str(abs(rounded))


def stray_digits(tree: Element) -> list[str]:
    """Numbers in the body that neither come from results.json nor are names, axis ticks or fixed words."""
    found: list[str] = []
    fixed = re.compile(r"(95|80|5) %")

    def walk(node: Element) -> None:
        skip = local(node) in ("script", "style") or any(
            node.get(key) is not None for key in ("data-path", "data-count-of", "data-transcripts", "data-name")
        )
        drawn = {"axis", "tick"} & set((node.get("class") or "").split())
        if not skip and not drawn:
            for text in (node.text, *(child.tail for child in node)):
                if text and re.search(r"\d", fixed.sub("", text)):
                    found.append(text.strip())
            for child in node:
                walk(child)

    body = next(node for node in tree.iter() if local(node) == "body")
    walk(body)
    return [text for text in found if not text.startswith("From ")]  # an axis' description


def unpacked(page: str) -> dict[str, Any]:
    """The transcripts' block as the documentation of its form says, with the letters put back."""
    [(_, block, _)] = BLOCK.findall(page)
    document = json.loads(zlib.decompress(base64.b64decode(block)))
    words = document["words"]

    def whole(value: Any, letters: dict[str, str]) -> tuple[str, int | None]:
        text, length = value if isinstance(value, list) else (value, None)
        return "".join(letters[letter] for letter in text), length

    rows = []
    for task, key, language, _label, _category, query, source, _source_language, *sides in document["rows"]:
        letters = dict(zip(CODES, document["alphabets"][words[language]], strict=False))
        rows.append(
            {
                "task": words[task],
                "id": key,
                "language": words[language],
                "query": whole(query, letters),
                "source": (words[source[0]], source[1]),
                "completions": [side and whole(side[0], letters) for side in sides],
                "outcomes": [side and (None if side[1] is None else document["outcomes"][side[1]]) for side in sides],
            }
        )
    return {"limit": document["limit"], "rows": rows}
