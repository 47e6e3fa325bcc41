"""One table, five forms: csv, Markdown, LaTeX, HTML and plain text for the terminal.

Every text is escaped for its form, so that no name can break a page or run in it.
"""

import csv
import html
import io
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from retrotune.runtime.files import write_text

Value = str | float | int | None

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|#&~$])")
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": "--",
}
_STYLE = (
    "body{font:15px/1.4 system-ui,sans-serif;margin:2em;color:#222}"
    "table{border-collapse:collapse;border-top:2px solid;border-bottom:2px solid}"
    "thead{border-bottom:1px solid}th,td{padding:.2em .8em;text-align:right}"
    ".label{text-align:left}tr.rule{border-top:1px solid #bbb}caption{text-align:left;font-weight:bold;padding:.5em 0}"
)


@dataclass
class Table:
    """Columns, rows of values (None = unknown, a dash), and what stands below them.

    The first `num_labels` columns name the row, the others hold numbers in `formats` (format specifications, one per
    number column). `best` holds the (row, column) places printed in bold; `rules` the rows with a line above.
    """

    title: str
    columns: list[str]
    rows: list[list[Value]]
    num_labels: int
    formats: list[str]
    notes: list[str] = field(default_factory=list)
    best: set[tuple[int, int]] = field(default_factory=set)
    rules: set[int] = field(default_factory=set)

    def text_of(self, row: int, column: int, dash: str = "–") -> str:
        """A value as it is printed, not yet escaped."""
        value = self.rows[row][column]
        if value is None:
            return dash
        return value if isinstance(value, str) else format(value, self.formats[column - self.num_labels])

    def mark_best(self, higher: bool = True, rows: Collection[int] | None = None) -> None:
        """Mark the best number of each column as printed: values that look alike are marked alike.

        Where all look alike there is nothing to tell apart, and none is marked. `rows` are those to compare; None: all.
        """
        for column in range(self.num_labels, len(self.columns)):
            printed = {
                row: float(self.text_of(row, column))
                for row, values in enumerate(self.rows)
                if isinstance(values[column], int | float) and (rows is None or row in rows)
            }
            if len(set(printed.values())) > 1 or len(printed) == 1:
                top = max(printed.values()) if higher else min(printed.values())
                self.best |= {(row, column) for row, value in printed.items() if value == top}

    def texts(
        self, escape: Callable[[str], str], strong: Callable[[str], str], dash: str = "–"
    ) -> tuple[list[str], list[list[str]], list[str]]:
        """Escaped header, cells (best ones through `strong`) and notes."""
        cells = []
        for row in range(len(self.rows)):
            texts = [escape(self.text_of(row, column, dash)) for column in range(len(self.columns))]
            cells.append([strong(text) if (row, column) in self.best else text for column, text in enumerate(texts)])
        return [escape(column) for column in self.columns], cells, [escape(note) for note in self.notes]


def to_csv(table: Table) -> str:
    """Comma-separated values, numbers as printed, a hyphen for what is unknown; without notes."""
    header, cells, _ = table.texts(str, str, dash="-")
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([header, *cells])
    return stream.getvalue()


def to_markdown(table: Table) -> str:
    """A GitHub-flavored Markdown table with title and notes."""

    def escape(text: str) -> str:
        return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))

    header, cells, notes = table.texts(escape, lambda text: f"**{text}**")
    rulers = ["---" if column < table.num_labels else "---:" for column in range(len(header))]
    lines = ["| " + " | ".join(line) + " |" for line in [header, rulers, *cells]]
    return "\n".join([f"**{escape(table.title)}**", "", *lines, "", *(f"- {note}" for note in notes)]) + "\n"


def to_latex(table: Table) -> str:
    """A LaTeX `table` environment for the package booktabs; notes stand below in small print."""

    def escape(text: str) -> str:
        return "".join(_LATEX.get(char, char) for char in " ".join(text.split()))

    header, cells, notes = table.texts(escape, lambda text: rf"\textbf{{{text}}}")
    body = []
    for row, texts in enumerate(cells):
        if row in table.rules:
            body.append(r"\midrule")
        body.append(" & ".join(texts) + r" \\")
    columns = "l" * table.num_labels + "r" * (len(header) - table.num_labels)
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering\small",
            rf"\caption{{{escape(table.title)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join(header) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par\footnotesize {note}" for note in notes),
            r"\end{table}",
            "",
        ]
    )


def to_html(table: Table) -> str:
    """A page of its own: no scripts, nothing loaded from elsewhere."""
    header, cells, notes = table.texts(html.escape, lambda text: f"<b>{text}</b>")

    def line(tag: str, texts: list[str]) -> str:
        labels = (' class="label"' if column < table.num_labels else "" for column in range(len(texts)))
        return "".join(f"<{tag}{label}>{text}</{tag}>" for label, text in zip(labels, texts, strict=True))

    opening = ['<tr class="rule">' if row in table.rules else "<tr>" for row in range(len(cells))]
    rows = [f"{tag}{line('td', texts)}</tr>" for tag, texts in zip(opening, cells, strict=True)]
    title = html.escape(table.title)
    return "\n".join(
        [
            "<!DOCTYPE html>",
            f'<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style></head><body>',
            f"<table><caption>{title}</caption>",
            f"<thead><tr>{line('th', header)}</tr></thead>",
            "<tbody>",
            *rows,
            "</tbody></table>",
            "<ul>" + "".join(f"<li>{note}</li>" for note in notes) + "</ul>" if notes else "",
            "</body></html>",
            "",
        ]
    )


def to_text(table: Table) -> str:
    """Aligned columns for the terminal; a star marks what the other forms print in bold."""

    def printable(text: str) -> str:
        return "".join(char if char.isprintable() else "?" for char in text)

    header, cells, notes = table.texts(printable, lambda text: f"{text}*")
    for row, texts in enumerate(cells):
        numbers = range(table.num_labels, len(header))
        cells[row] = [
            text + " " if i in numbers and (row, i) not in table.best else text for i, text in enumerate(texts)
        ]
    header = [text + " " if column >= table.num_labels else text for column, text in enumerate(header)]
    widths = [max(len(line[column]) for line in [header, *cells]) for column in range(len(header))]

    def align(texts: list[str]) -> str:
        pairs = zip(texts, widths, strict=True)
        padded = (text.ljust(w) if i < table.num_labels else text.rjust(w) for i, (text, w) in enumerate(pairs))
        return "  ".join(padded).rstrip()

    ruler = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines = [printable(table.title), ruler, align(header), ruler]
    for row, texts in enumerate(cells):
        lines += [ruler] if row in table.rules else []
        lines.append(align(texts))
    return "\n".join([*lines, ruler, *notes]) + "\n"


FORMS: dict[str, Callable[[Table], str]] = {"csv": to_csv, "md": to_markdown, "tex": to_latex, "html": to_html}


def write_table(table: Table, folder: str | Path, name: str) -> None:
    """Write `name`.csv, .md, .tex and .html into `folder`, each atomically."""
    for suffix, render in FORMS.items():
        write_text(Path(folder) / f"{name}.{suffix}", render(table))
