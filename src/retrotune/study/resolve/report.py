"""What the stages use that make something of all cells."""

from dataclasses import astuple

from retrotune.study.artifacts import Artifacts
from retrotune.study.cells import expand_grid
from retrotune.study.config import NO_RETRIEVER, Config, read_claims
from retrotune.study.reporting import beside, figure_names, table_names
from retrotune.study.resolve.cells import max_new_tokens
from retrotune.study.resolve.registry import Wildcards, resolver
from retrotune.study.stages import (
    ClaimTestParams,
    CollectAnswersParams,
    CollectParams,
    DiagnoseParams,
    DrawFiguresParams,
    MakeTablesParams,
    MethodLabels,
    ModelLabels,
    ReportRetrievalParams,
    StageParams,
    WriteReportParams,
)

EFFECT = 5.0
"""Points that a study is asked to show where no claim names a margin: families and methods differ by some of them."""


@resolver("collect_metrics")
def collecting(config: Config, wildcards: Wildcards | None = None) -> CollectParams:
    """What collecting the study's results uses: all its cells with what tables say of them."""
    cells = expand_grid(config)
    models = {cell.model: config.models[cell.model] for cell in cells}
    return CollectParams(
        study=config.study,
        cells=tuple(astuple(cell) for cell in cells),
        models={
            name: ModelLabels(**{key: getattr(model, key) for key in ModelLabels.model_fields})
            for name, model in models.items()
        },
        methods={
            cell.method: MethodLabels(
                kind=config.methods[cell.method].kind, trained=config.methods[cell.method].trained
            )
            for cell in cells
        },
        datasets={cell.dataset: config.metrics_of(cell.dataset)[0] for cell in cells},
    )


@resolver("test_claims")
def claim_testing(config: Config, wildcards: Wildcards | None = None) -> ClaimTestParams:
    """What testing the study's claims uses: what its files of claims say, and what its retrievals search with."""

    def kind_of(retrieval: str) -> str:
        retriever = config.retrievals[retrieval].retriever
        return NO_RETRIEVER if retriever is None else config.retrievers[retriever].kind

    retrievals = dict.fromkeys(cell.retrieval for cell in expand_grid(config))
    return ClaimTestParams(
        claims=tuple(read_claims(config.claims).items()),
        retrievals={name: kind_of(name) for name in retrievals},
        resamples=config.evaluation.resamples,
    )


@resolver("make_tables")
def making_tables(config: Config, wildcards: Wildcards | None = None) -> MakeTablesParams:
    """What the study's tables use beside results."""
    return MakeTablesParams(
        tables=table_names(config), resamples=config.evaluation.resamples, published=tuple(beside(config))
    )


@resolver("collect_answers")
def collecting_answers(config: Config, wildcards: Wildcards | None = None) -> CollectAnswersParams:
    """What holding answers against passages uses."""
    datasets = {cell.dataset: config.datasets[cell.dataset] for cell in expand_grid(config)}
    return CollectAnswersParams(
        max_new_tokens={name: max_new_tokens(dataset) for name, dataset in datasets.items()},
        gold={name: dataset.record.gold for name, dataset in datasets.items()},
    )


@resolver("diagnose_cells")
def diagnosing(config: Config, wildcards: Wildcards | None = None) -> DiagnoseParams:
    """What the diagnosis uses: the smallest margin that the study's claims name.

    Those of slopes are left out: they are points per doubling of parameters, and no difference of scores.
    """
    margins = [abs(claim.margin) for claim in read_claims(config.claims).values() if claim.kind != "slope"]
    return DiagnoseParams(effect=min(filter(None, margins), default=EFFECT))


@resolver("draw_figures")
def drawing_figures(config: Config, wildcards: Wildcards | None = None) -> DrawFiguresParams:
    """What the study's figures use beside results."""
    return DrawFiguresParams(figures=figure_names(config))


@resolver("report_retrieval")
def _report_retrieval(config: Config, wildcards: Wildcards) -> StageParams:
    return ReportRetrievalParams(pairs=tuple(Artifacts(config).measured()))


@resolver("write_report")
def writing_report(config: Config, wildcards: Wildcards | None = None) -> WriteReportParams:
    """The tables and figures that the report shows, in its order."""
    measured = ("retrieval_quality",) if Artifacts(config).measured() else ()
    return WriteReportParams(
        study=config.study,
        tables=(*table_names(config), *measured, "diagnosis", *(("claims",) if config.claims else ())),
        figures=(*figure_names(config), *measured),
    )
