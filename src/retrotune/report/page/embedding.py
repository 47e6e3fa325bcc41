"""How data and programs lie inside of the page: in script elements, which no text of theirs can end."""

import base64
import gzip
import html
import json
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from typing import Any

from retrotune.errors import ResultError

BLOCK = 250
"""Records of texts in one block, which is opened as a whole."""


def asset(name: str) -> str:
    """A file of the page's own: markup, style or program."""
    return (resources.files("retrotune.report.page") / "assets" / name).read_text(encoding="utf-8")


def datatables() -> tuple[str, str]:
    """(program, style) of DataTables with its buttons, as the package itables brings them for use without a network."""
    files = resources.files("itables") / "html"
    return tuple((files / name).read_text(encoding="utf-8") for name in ("dt_bundle.js", "dt_bundle.css"))  # type: ignore[return-value]


def vega() -> str:
    """The program that draws figures, as vl-convert brings it for use without a network."""
    import vl_convert

    program: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return program


def json_element(name: str, value: Any) -> str:
    """A value as a script element that is only data."""
    return _element("application/json", name, to_json(value))


def to_json(value: Any) -> str:
    """JSON in which nothing can end an element: every `<` is written as its code."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def specification_element(name: str, specification: str) -> str:
    """JSON that was written elsewhere, as `json_element`."""
    return _element("application/json", name, specification.replace("<", "\\u003c"))


def program(code: str) -> str:
    """A script element that runs."""
    return f"<script>{_closed(code)}</script>"


def style(rules: str) -> str:
    """A style element."""
    if "</style" in rules.lower():
        raise ResultError("a style sheet of the page would end its own element")
    return f"<style>{rules}</style>"


def bytes_element(name: str, contents: bytes) -> str:
    """Bytes as base64."""
    return _element("application/octet-stream", name, base64.b64encode(contents).decode("ascii"))


def blocks(prefix: str, records: Sequence[Any]) -> Iterator[str]:
    """Records as elements `prefix`-0, `prefix`-1, ...: JSON lists of `BLOCK` records each, gzip, base64."""
    for number, start in enumerate(range(0, len(records), BLOCK)):
        text = json.dumps(records[start : start + BLOCK], ensure_ascii=False, separators=(",", ":"))
        yield bytes_element(f"{prefix}-{number}", gzip.compress(text.encode("utf-8", "replace"), mtime=0))


def page(title: str, styles: Iterable[str], data: Iterable[str], programs: Iterable[str]) -> Iterator[str]:
    """The page's markup in pieces, so that it need not be in memory as a whole."""
    places: dict[str, Iterable[str]] = {
        "title": [html.escape(title)],
        "styles": styles,
        "data": data,
        "scripts": programs,
    }
    rest = asset("page.html")
    for name, pieces in places.items():
        before, rest = rest.split(f"<!--{name}-->")
        yield before
        yield from pieces
    yield rest


def _element(kind: str, name: str, contents: str) -> str:
    return f'<script type="{kind}" id="{html.escape(name)}">{contents}</script>\n'


def _closed(code: str) -> str:
    """A program in which nothing can end its element, nor begin what hides an end."""
    if "</script" in code.lower() or "<!--" in code:
        raise ResultError("a program of the page would end its own element: embed it as bytes")
    return code
