"""Forms of a table hold any text as text, and counts as people write them."""

import csv
import html.parser
import re
from typing import Any

import pytest

from retrotune.report.gathering.rows import human
from retrotune.report.tables.render import Table, to_csv, to_html, to_latex, to_markdown, to_text

NASTY = "<b>&_%|*`#{x}\\$^~\n\x1b[31m"


class Tags(html.parser.HTMLParser):
    """Collects open tags and text, and holds the tags against each other."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.append(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def nasty_table() -> Table:
    return Table(NASTY, ["Name", NASTY], [[NASTY, 1.0], ["x", None]], 1, [".1f"], [NASTY], {(0, 1)}, {1})


def test_html_holds_untrusted_text_as_text() -> None:
    tags = Tags()
    tags.feed(to_html(nasty_table()))
    tags.close()
    assert tags.open == []
    assert tags.seen.count("b") == 1  # the best value, and nothing from the text
    assert tags.text.count("<b>&_%|*`#{x}") == 5  # title twice, header, cell and note


def test_latex_holds_untrusted_text_as_text() -> None:
    text = to_latex(nasty_table())
    body = re.sub(
        r"\\(textbackslash|textasciitilde|textasciicircum|textless|textgreater|textbar|textasciigrave)\{\}", "", text
    )
    body = re.sub(r"\\[&%$#_{}]|\\(width|linewidth|ifdim\\width>)", "", body)
    assert body.count("{") == body.count("}")
    rows = body[body.index(r"\toprule") : body.index(r"\bottomrule")]
    assert [line.count("&") for line in rows.splitlines() if line.endswith(r"\\")] == [1, 1, 1]
    assert not re.search(r"[<>|~^$]|(?<!\\)#", body)
    assert text.count(r"\begin{") == text.count(r"\end{") == 2


def test_markdown_and_terminal_hold_untrusted_text_as_text() -> None:
    markdown = to_markdown(nasty_table())
    unescaped = re.sub(r"\\.", "", markdown)
    assert [line.count("|") for line in unescaped.splitlines() if line.startswith("|")] == [3, 3, 3, 3]
    assert "<" not in unescaped
    assert "\x1b" not in to_text(nasty_table())
    assert list(csv.reader(to_csv(nasty_table()).splitlines(keepends=True)))[1] == [NASTY, "1.0"]


@pytest.mark.parametrize(
    ("count", "text"),
    [(823_200_000, "823M"), (2_253_600_000, "2.25B"), (42_825_000_000, "42.8B"), (79_400, "79.4K"), (999_999, "1.00M")],
)
def test_counts_for_people(count: int, text: str) -> None:
    assert human(count) == text
