"""One table, seven forms: csv, parquet, Markdown, LaTeX, HTML, JSON for the report, plain text for the terminal.

Every text is escaped for its form, so that no name can break a page or run in it.
"""

import csv
import html
import io
import json
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

from retrotune.report.gathering.rows import printable
from retrotune.report.tables.table import YES_NO, Measured, Table, value_of
from retrotune.runtime.files import write_parquet, write_text
from retrotune.study.paths import TABLE_FORMS

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|#&~$])")
_NOTHING = "\u2063"
"""Stands between hyphens, of which LaTeX would make a dash."""
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
    '"': "''",
    "`": r"\textasciigrave{}",
    "[": "{[}",  # behind the end of a line it would begin an argument
    "*": "{*}",
    "–": "--",
    "—": "---",
    _NOTHING: "{}",
    "±": r"\(\pm\)",
    "×": r"\(\times\)",
}
_ACCENTS = {"\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0308": '"', "\u030a": "r", "\u0327": "c"}
"""Combining accents, and the commands of LaTeX that set them."""
_FLOATING_ROWS = 40
"""A float of more rows is longer than a page, and LaTeX would cut it off."""
_STYLE = (
    "body{font:15px/1.4 system-ui,sans-serif;margin:2em;color:#222}"
    "table{border-collapse:collapse;border-top:2px solid;border-bottom:2px solid}"
    "thead{border-bottom:1px solid}th,td{padding:.2em .8em;text-align:right;white-space:nowrap}"
    ".label{text-align:left}tr.rule,tfoot{border-top:1px solid #bbb}tfoot{color:#666}"
    "caption{text-align:left;font-weight:bold;padding:.5em 0}"
)


def to_csv(table: Table) -> str:
    """Comma-separated values, numbers as printed, a hyphen for what is unknown; without notes, marks and footers.

    A column with intervals is followed by two of its bounds, `NAME low` and `NAME high`.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([name for column in range(len(table.columns)) for name in _names(table, column)])
    for row in range(len(table.rows)):
        line = []
        for column in range(len(table.columns)):
            line.append(table.text_of(row, column, dash="-"))
            if column in table.intervals:
                spec = table.format_of(column)
                line += ["-" if bound is None else format(bound, spec) for bound in _bounds(table, row, column)]
        writer.writerow(line)
    return stream.getvalue()


def to_parquet(table: Table) -> Any:
    """An arrow table of unrounded values: columns as in csv, each of one type; words in number columns are null."""
    import pyarrow as pa

    arrays, names = [], []
    for column in range(len(table.columns)):
        names += _names(table, column)
        values = [value_of(row[column]) for row in table.rows]
        spec = table.format_of(column)
        if not spec:
            arrays.append(pa.array([None if value is None else str(value) for value in values], pa.string()))
            continue
        numbers = [None if isinstance(value, str) else value for value in values]
        kind = pa.bool_() if spec == YES_NO else pa.int64() if spec.endswith("d") else pa.float64()
        arrays.append(pa.array(numbers, kind))
        if column in table.intervals:
            bounds = [_bounds(table, row, column) for row in range(len(table.rows))]
            arrays += [pa.array([pair[end] for pair in bounds], pa.float64()) for end in (0, 1)]
    return pa.table(arrays, names=names)


def _names(table: Table, column: int) -> list[str]:
    """Names of a column and of its bounds where values stand in columns of their own."""
    name = table.columns[column]
    return [name, f"{name} low", f"{name} high"] if column in table.intervals else [name]


def _bounds(table: Table, row: int, column: int) -> tuple[float | None, float | None]:
    value = table.rows[row][column]
    return (value.low, value.high) if isinstance(value, Measured) else (None, None)


def _marking(table: Table, best: Callable[[str], str], near: Callable[[str], str]) -> Callable[[int, int, str], str]:
    """Marks the text of a place as a form does."""

    def mark(row: int, column: int, text: str) -> str:
        return best(text) if (row, column) in table.best else near(text) if (row, column) in table.near else text

    return mark


def to_markdown(table: Table) -> str:
    """A GitHub-flavored Markdown table with title and notes."""

    def escape(text: str) -> str:
        return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))

    marking = _marking(table, lambda text: f"**{text}**", lambda text: f"*{text}*")
    header, cells, footers = table.texts(escape, marking)
    rulers = ["---" if column < table.num_labels else "---:" for column in range(len(header))]
    lines = ["| " + " | ".join(line) + " |" for line in [header, rulers, *cells, *footers]]
    notes = [f"- {escape(note)}" for note in table.notes_with("bold", "italic")]
    return "\n".join([f"**{escape(table.title)}**", "", *lines, "", *notes]) + "\n"


def to_latex(table: Table) -> str:
    """LaTeX for pdflatex; notes stand below in small print. The first line names the packages that it needs.

    A table of a page is a `table` as wide as the text at most; one of more rows a `longtable`, on sheets turned if it
    has many columns.
    """
    marking = _marking(table, lambda text: rf"\textbf{{{text}}}", lambda text: rf"\underline{{{text}}}")
    header, cells, footers = table.texts(_latex, marking)
    rows = [" & ".join(texts) + r" \\" for texts in cells]
    body = [line for row, text in enumerate(rows) for line in ([r"\midrule"] if row in table.rules else []) + [text]]
    below = [" & ".join(texts) + r" \\" for texts in footers]
    body += [r"\midrule", *below] if below else []
    columns = "l" * table.num_labels + "r" * (len(header) - table.num_labels)
    head, caption = " & ".join(header) + r" \\", _latex(table.title)
    notes = [rf"\par {_latex(note)}" for note in table.notes_with("bold", "underlined")]
    if len(rows) <= _FLOATING_ROWS:
        return "\n".join(
            [
                r"% needs \usepackage{booktabs,graphicx}",
                r"\begin{table}",
                r"\centering\small",
                rf"\caption{{{caption}}}",
                r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
                rf"\begin{{tabular}}{{{columns}}}",
                r"\toprule",
                head,
                r"\midrule",
                *body,
                r"\bottomrule",
                r"\end{tabular}}",
                r"\par\raggedright\footnotesize",
                *notes,
                r"\end{table}",
                "",
            ]
        )
    turned = len(header) > 10
    return "\n".join(
        [
            r"% needs \usepackage{booktabs,longtable,pdflscape}",
            *([r"\begin{landscape}"] if turned else []),
            r"\begingroup\setlength{\tabcolsep}{2pt}" + (r"\tiny" if turned else r"\scriptsize"),
            rf"\begin{{longtable}}{{{columns}}}",
            rf"\caption{{{caption}}} \\",
            *[r"\toprule", head, r"\midrule", r"\endhead", r"\bottomrule", r"\endfoot"],
            *body,
            r"\end{longtable}",
            r"\raggedright",
            *notes,
            r"\par\endgroup",
            *([r"\end{landscape}"] if turned else []),
            "",
        ]
    )


def _latex(text: str) -> str:
    """Text as LaTeX sets it; a character that pdflatex has no sign for stands as its code point."""
    apart = re.sub("-(?=-)", f"-{_NOTHING}", " ".join(text.split()))
    return "".join(_LATEX.get(char) or _latex_letter(char) for char in apart)


def _latex_letter(char: str) -> str:
    if char.isascii():
        return char if char.isprintable() else "?"
    parts = unicodedata.normalize("NFD", char)
    if len(parts) == 2 and parts[0].isascii() and parts[0].isalpha() and parts[1] in _ACCENTS:
        return rf"\{_ACCENTS[parts[1]]}{{{parts[0]}}}"
    return f"U+{ord(char):04X}"


def to_html(table: Table) -> str:
    """A page of its own: no scripts, nothing loaded from elsewhere."""
    marking = _marking(table, lambda text: f"<b>{text}</b>", lambda text: f"<u>{text}</u>")
    header, cells, footers = table.texts(html.escape, marking)

    def line(tag: str, texts: list[str]) -> str:
        labels = (' class="label"' if column < table.num_labels else "" for column in range(len(texts)))
        return "".join(f"<{tag}{label}>{text}</{tag}>" for label, text in zip(labels, texts, strict=True))

    opening = ['<tr class="rule">' if row in table.rules else "<tr>" for row in range(len(cells))]
    rows = [f"{tag}{line('td', texts)}</tr>" for tag, texts in zip(opening, cells, strict=True)]
    below = [f"<tr>{line('td', texts)}</tr>" for texts in footers]
    notes = [f"<li>{html.escape(note)}</li>" for note in table.notes_with("bold", "underlined")]
    title = html.escape(table.title)
    return "\n".join(
        [
            "<!DOCTYPE html>",
            f'<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style></head><body>',
            f"<table><caption>{title}</caption>",
            f"<thead><tr>{line('th', header)}</tr></thead>",
            "<tbody>",
            *rows,
            "</tbody>",
            *(["<tfoot>", *below, "</tfoot>"] if below else []),
            "</table>",
            *(["<ul>", *notes, "</ul>"] if notes else []),
            "</body></html>",
            "",
        ]
    )


def to_text(table: Table) -> str:
    """Aligned columns for the terminal: a star behind the best, a tilde behind what is not significantly worse."""

    stars = {**dict.fromkeys(table.near, "~"), **dict.fromkeys(table.best, "*")}
    marked = {column for _, column in stars}
    header = list(map(printable, table.columns))
    footers = [list(map(printable, footer)) for footer in table.footers]
    cells: list[list[str]] = [[] for _ in table.rows]
    for column in range(len(header)):
        numbers = [
            printable(table.text_of(row, column)) + stars.get((row, column), " " if column in marked else "")
            for row in range(len(table.rows))
        ]
        intervals = [table.interval_of(row, column) for row in range(len(table.rows))]
        left, right = (max(map(len, texts), default=0) for texts in (numbers, intervals))
        for texts, number, interval in zip(cells, numbers, intervals, strict=True):
            is_label = column < table.num_labels
            texts.append(
                number if is_label else f"{number:>{left}} {interval:{right}}" if right else f"{number:>{left}}"
            )
    widths = [max(len(line[column]) for line in [header, *cells, *footers]) for column in range(len(header))]

    def align(texts: list[str]) -> str:
        pairs = zip(texts, widths, strict=True)
        padded = (text.ljust(w) if i < table.num_labels else text.rjust(w) for i, (text, w) in enumerate(pairs))
        return "  ".join(padded).rstrip()

    ruler = "-" * (sum(widths) + 2 * (len(widths) - 1))
    body = []
    for row, texts in enumerate(cells):
        body += [ruler] if row in table.rules else []
        body.append(align(texts))
    body += [ruler, *map(align, footers)] if footers else []
    notes = table.notes_with("starred", "marked ~")
    return "\n".join([printable(table.title), ruler, align(header), ruler, *body, ruler, *map(printable, notes)]) + "\n"


def to_json(table: Table) -> str:
    """`to_json_values` as JSON."""
    return json.dumps(to_json_values(table), ensure_ascii=False) + "\n"


def to_json_values(table: Table) -> dict[str, Any]:
    """What a page needs to show the table: texts as printed, not escaped, and the numbers to sort by.

    `rows` hold [text, number, interval, mark] of each place: number is null for texts and what is unknown, interval is
    empty if there is none, mark is 2 for the best of a column and 1 for what is not significantly worse.
    """

    def place(row: int, column: int) -> list[Any]:
        mark = 2 * ((row, column) in table.best) or int((row, column) in table.near)
        return [table.text_of(row, column), table.number_at(row, column), table.interval_of(row, column), mark]

    columns = range(len(table.columns))
    return {
        "title": table.title,
        "columns": table.columns,
        "num_labels": table.num_labels,
        "rows": [[place(row, column) for column in columns] for row in range(len(table.rows))],
        "rules": sorted(table.rules),
        "footers": table.footers,
        "notes": table.notes_with("bold", "underlined"),
    }


FORMS: dict[str, Callable[[Table], str]] = {
    "csv": to_csv,
    "md": to_markdown,
    "tex": to_latex,
    "html": to_html,
    "table.json": to_json,
}
"""Forms that are text, by the suffix of their file."""


def write_table(table: Table, folder: str | Path, name: str) -> None:
    """Write a table into `folder` in every form, each atomically."""
    for suffix in TABLE_FORMS:
        path = Path(folder) / f"{name}.{suffix}"
        if suffix == "parquet":
            write_parquet(path, to_parquet(table))
        else:
            write_text(path, FORMS[suffix](table))
