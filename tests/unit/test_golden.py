"""Every form of every table of a small study, letter by letter.

`RENEW_GOLDEN=1 pytest tests/unit/test_golden.py` writes the files anew, and fails: look at what has changed.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from report_cases import PUBLISHED, params_of, study, write_study

from retrotune.report.gathering.base_models import BaseModel
from retrotune.report.tables.making import format_table, make_tables
from retrotune.report.tables.render import to_html, to_latex
from retrotune.report.tables.table import Table

GOLDEN = Path(__file__).parent / "golden"
FILES = (
    *(f"comparison.{suffix}" for suffix in ("csv", "md", "tex", "html", "txt", "parquet.txt")),
    *(f"comparison_long.{suffix}" for suffix in ("csv", "md", "tex", "parquet.txt")),
    *(f"{name}.{suffix}" for name in ("parameters", "retrievals", "instruct", "published") for suffix in ("md", "csv")),
    "cost.md",
    "cost_totals.md",
)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables of the study, and parquet as text."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "published.csv").write_text(PUBLISHED, encoding="utf-8")
    results, scores = study()
    params = params_of(results, published=[str(folder / "published.csv")])
    models = [
        BaseModel(f"gpt-{size}", origin, 7200.0, 4, "cpu", 3.6e6, 2**31, 4_000_000)
        for size, origin in {"a": "pretraining", "b": "retrofitting"}.items()
    ]
    collected = write_study(folder, results, scores, models)
    out = folder / "tables"
    make_tables(params, *collected, out)
    (out / "comparison.txt").write_text(format_table(params, *collected), encoding="utf-8")
    for name in ("comparison", "comparison_long"):
        (out / f"{name}.parquet.txt").write_text(as_text(out / f"{name}.parquet"), encoding="utf-8")
    return out


def as_text(path: Path) -> str:
    """Columns with their types, then rows; numbers to six digits, as libraries sum in other orders."""
    table = pq.read_table(path)
    lines = [f"{field.name}: {field.type}" for field in table.schema]
    for row in table.to_pylist():
        lines.append(repr([f"{value:.6g}" if isinstance(value, float) else value for value in row.values()]))
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", FILES)
def test_a_table_is_as_it_was(tables: Path, name: str) -> None:
    found = (tables / name).read_bytes().decode()
    golden = GOLDEN / name
    if os.environ.get("RENEW_GOLDEN"):
        GOLDEN.mkdir(exist_ok=True)
        golden.write_bytes(found.encode())
        pytest.fail(f"{golden} is written anew: look at what has changed, then run without RENEW_GOLDEN")
    assert found == golden.read_bytes().decode()


def test_no_golden_file_is_left_behind() -> None:
    assert sorted(path.name for path in GOLDEN.iterdir()) == sorted(FILES)


def test_every_table_compiles(tables: Path, tmp_path: Path) -> None:
    """With the packages that each file names, twice, as a long table asks for."""
    compiler = shutil.which("pdflatex")
    if compiler is None:
        pytest.skip("pdflatex is not installed (texlive-latex-recommended)")
    files = sorted(tables.glob("*.tex"))
    assert len(files) == 8
    (tmp_path / "many.tex").write_text(to_latex(many_rows()), encoding="utf-8")
    packages = {line for file in [*files, tmp_path / "many.tex"] for line in file.read_text().splitlines()[:1]}
    assert all(line.startswith(r"% needs \usepackage{") for line in packages)
    inputs = [rf"\input{{{file}}}" for file in [*files, tmp_path / "many.tex"]]
    preamble = [line.removeprefix("% needs ") for line in sorted(packages)]
    text = [r"\documentclass{article}", *preamble, r"\begin{document}", *inputs, r"\end{document}"]
    (tmp_path / "all.tex").write_text("\n".join(text), encoding="utf-8")
    for _ in range(2):
        command = [compiler, "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, timeout=120)
        assert done.returncode == 0, done.stdout.decode(errors="replace")[-3000:]
    assert b"Overfull" not in done.stdout.replace(b"Overfull \\vbox", b"")


def many_rows() -> Table:
    """A table of several pages whose cells begin as arguments of a line's end do."""
    rows: list[list[object]] = [[f"[{number}pt]", "*", float(number)] for number in range(120)]
    return Table("Many rows", ["a", "b", "c"], rows, 2, [".1f"])  # type: ignore[arg-type]


def test_pages_load_nothing_and_run_nothing(tables: Path) -> None:
    for file in tables.glob("*.html"):
        text = file.read_text(encoding="utf-8")
        for word in ("<script", "<link", "<img", "src=", "href=", "@import", "url("):
            assert word not in text
    assert "<b>0.0</b>" not in to_html(Table("t", ["a", "b"], [["x", 0.0]], 1, [".1f"]))
