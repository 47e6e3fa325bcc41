"""A table before it has a form: columns, rows of values with their intervals, marks, and what stands below.

`report.tables.render` writes it as csv, Markdown, LaTeX, HTML, parquet and plain text.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import NamedTuple

YES_NO = "?"
"""The format of a column of truth values."""


class Measured(NamedTuple):
    """A number and the bounds of its interval; None where nothing is known of its spread."""

    value: float
    low: float | None = None
    high: float | None = None


Value = str | float | int | Measured | None


@dataclass
class Table:
    """Columns, rows of values (None = unknown, a dash), and what stands below them.

    The first `num_labels` columns name the row, the others hold numbers in `formats` (format specifications, `YES_NO`
    for truth values, empty for texts; one per column). `intervals` are the columns whose numbers may have an interval.

    `best` and `near` hold the (row, column) places that are marked; `untested` are those that could be `near` and were
    not tested. `legend` says what the marks mean: {best} and {near} stand for how a form shows them. `rules` are the
    rows with a line above. `footers` stand below the rows, a text per column.
    """

    title: str
    columns: list[str]
    rows: list[list[Value]]
    num_labels: int
    formats: list[str]
    notes: list[str] = field(default_factory=list)
    best: set[tuple[int, int]] = field(default_factory=set)
    rules: set[int] = field(default_factory=set)
    near: set[tuple[int, int]] = field(default_factory=set)
    untested: set[tuple[int, int]] = field(default_factory=set)
    legend: str = ""
    intervals: set[int] = field(default_factory=set)
    footers: list[list[str]] = field(default_factory=list)

    def format_of(self, column: int) -> str:
        """The format specification of a number column; empty for a label."""
        return "" if column < self.num_labels else self.formats[column - self.num_labels]

    def text_of(self, row: int, column: int, dash: str = "–") -> str:
        """A value as it is printed without its interval, not yet escaped."""
        value = value_of(self.rows[row][column])
        if value is None:
            return dash
        if isinstance(value, str):
            return value
        spec = self.format_of(column)
        return ("no", "yes")[bool(value)] if spec == YES_NO else format(value, spec)

    def interval_of(self, row: int, column: int) -> str:
        """The interval of a value as it is printed: `±7.8`, or `[0.0, 2.1]` where scores have an end; empty if none."""
        measured = self.rows[row][column]
        if not isinstance(measured, Measured) or measured.low is None or measured.high is None:
            return ""
        spec = self.format_of(column)
        below, above = measured.value - measured.low, measured.high - measured.value
        at_an_end = {measured.low, measured.high} & {-100.0, 0.0, 100.0}
        if not at_an_end and abs(below - above) <= 1e-6 * (below + above):
            return f"±{format(above, spec.replace('+', ''))}"
        return f"[{format(measured.low, spec)}, {format(measured.high, spec)}]"

    def number_at(self, row: int, column: int) -> float | None:
        """The number of a place; None for a text or what is unknown."""
        value = value_of(self.rows[row][column])
        return None if value is None or isinstance(value, str) else value

    def mark_best(self, higher: bool = True, rows: Collection[int] | None = None) -> None:
        """Mark the best number of each column as printed: values that look alike are marked alike.

        Where all look alike, or there is one only, nothing can be told apart, and none is marked. `rows` are those to
        compare; None: all.
        """
        for column in range(self.num_labels, len(self.columns)):
            printed = {
                row: float(self.text_of(row, column))
                for row in (range(len(self.rows)) if rows is None else rows)
                if self.number_at(row, column) is not None
            }
            if len(set(printed.values())) > 1:
                top = max(printed.values()) if higher else min(printed.values())
                self.best |= {(row, column) for row, value in printed.items() if value == top}

    def texts(
        self, escape: Callable[[str], str], mark: Callable[[int, int, str], str], dash: str = "–"
    ) -> tuple[list[str], list[list[str]], list[list[str]]]:
        """Escaped header, cells (each number through `mark`, then its interval) and footers."""

        def cell(row: int, column: int) -> str:
            text = mark(row, column, escape(self.text_of(row, column, dash)))
            return " ".join(filter(None, [text, escape(self.interval_of(row, column))]))

        cells = [[cell(row, column) for column in range(len(self.columns))] for row in range(len(self.rows))]
        return list(map(escape, self.columns)), cells, [list(map(escape, footer)) for footer in self.footers]

    def notes_with(self, best: str, near: str) -> list[str]:
        """The notes, the legend first if something is marked, with a form's words for its marks."""
        legend = [self.legend.replace("{best}", best).replace("{near}", near)] if self.best else []
        return [note.strip() for note in [*legend, *self.notes] if note.strip()]


def value_of(value: Value) -> str | float | int | None:
    """A value without its interval."""
    return value.value if isinstance(value, Measured) else value
