"""All tables of a study: what each is made of, and where they are written."""

from pathlib import Path

from retrotune.report.gathering.base_models import load_models
from retrotune.report.tables.cost import cost_table, write_cell_costs
from retrotune.report.tables.grid import comparison_table, long_table, retrieval_table
from retrotune.report.tables.instruct import instruct_table
from retrotune.report.tables.measures import Measures
from retrotune.report.tables.parameters import parameters_table
from retrotune.report.tables.published import published_table
from retrotune.report.tables.render import to_text, write_table
from retrotune.report.tables.totals import format_totals, totals_table
from retrotune.study.stages import MakeTablesParams

LISTED_IN_TERMINAL = 12


def make_tables(
    params: MakeTablesParams, results_json: str | Path, scores_parquet: str | Path, folder: str | Path
) -> None:
    """Write the study's tables into `folder`, each in every form; `cost_cells.csv` has a row per cell.

    The inputs are what `collect_metrics` wrote.
    """
    measures = Measures.load(results_json, scores_parquet)
    models = load_models(results_json)
    comparison = comparison_table(measures, params.resamples)
    makers = {
        "comparison": lambda: comparison,
        "comparison_long": lambda: long_table(measures, comparison),
        "parameters": lambda: parameters_table(measures.results),
        "cost": lambda: cost_table(measures),
        "cost_totals": lambda: totals_table(measures.results, models),
        "retrievals": lambda: retrieval_table(measures),
        "instruct": lambda: instruct_table(measures),
        "published": lambda: published_table(measures, params.published),
    }
    for name in params.tables:
        write_table(makers[name](), folder, name)
    write_cell_costs(measures.results, Path(folder) / "cost_cells.csv")


def format_table(params: MakeTablesParams, results_json: str | Path, scores_parquet: str | Path) -> str:
    """The comparison table as plain text for the terminal, and below it a line of what the study cost."""
    measures = Measures.load(results_json, scores_parquet)
    comparison = to_text(comparison_table(measures, params.resamples, LISTED_IN_TERMINAL))
    return f"{comparison}\ncost: {format_totals(measures.results, load_models(results_json))}\n"
