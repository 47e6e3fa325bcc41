"""The report of a study: one file that a browser opens without a network, made of the study's tables and figures.

Charts are drawn by Vega-Lite, tables equipped by DataTables; both programs come from installed packages. Every text of
data is put into the page as text, never as markup.
"""

from collections.abc import Iterator
from pathlib import Path

from retrotune.report.page.content import content
from retrotune.report.page.embedding import (
    asset,
    bytes_element,
    datatables,
    json_element,
    page,
    program,
    specification_element,
    style,
    vega,
)
from retrotune.report.page.explorer import explorer_elements
from retrotune.report.tables.measures import Measures
from retrotune.runtime.files import atomic_write
from retrotune.runtime.log import logger
from retrotune.study.paths import Paths
from retrotune.study.stages import WriteReportParams

PROGRAMS = ("page.js", "tables.js", "figures.js", "verdicts.js", "texts.js", "explorer.js", "main.js")
"""In the order in which they run."""


def write_report(params: WriteReportParams, paths: Paths, folder: str | Path, out: str | Path) -> None:
    """Write the report to `out`, from what the workflow made below `folder`: tables, figures, collected answers.

    Questions, references and passages are read from where `paths` has them.
    """
    folder = Path(folder)
    tables = folder / "tables"
    measures = Measures.load(tables / "results.json", tables / "scores.parquet")
    tables_program, tables_style = datatables()

    def data() -> Iterator[str]:
        yield json_element("content", content(params, measures, tables))
        for name in params.figures:
            specification = (folder / "figures" / f"{name}.vl.json").read_text(encoding="utf-8")
            yield specification_element(f"figure-{name}", specification)
        yield from explorer_elements(paths, measures.results, measures.sheets, tables / "answers.parquet")
        yield bytes_element("datatables", tables_program.encode())

    styles = [style(tables_style), style(asset("page.css"))]
    programs = [program(vega()), *(program(asset(name)) for name in PROGRAMS)]
    with atomic_write(out) as temporary, open(temporary, "w", encoding="utf-8", errors="replace") as stream:
        for piece in page(params.study, styles, data(), programs):
            stream.write(piece)
    logger.info("wrote %s: %.1f MB", out, Path(out).stat().st_size / 1e6)
