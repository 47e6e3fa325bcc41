# All cells -> tables and plots. Cells that are missing or failed stay visible.


rule collect_metrics:
    input:
        PATHS.metrics(CELLS),
    output:
        csv=PATHS.report("tables/metrics.csv"),
        json=PATHS.report("tables/results.json"),
        scores=PATHS.report("tables/scores.parquet"),
    log:
        PATHS.log("collect_metrics"),
    conda:
        ENV
    params:
        uses=uses("collect_metrics"),
    script:
        "../scripts/collect_metrics.py"


rule make_tables:
    input:
        json=PATHS.report("tables/results.json"),
        scores=PATHS.report("tables/scores.parquet"),
    output:
        [PATHS.table(name, *(["html"] if name in ("comparison", "cost") else [])) for name in TABLES],
        PATHS.report("tables/cost_cells.csv"),
        html=report(
            PATHS.report("tables/comparison.html"),
            caption="../report/comparison.rst",
            category="Tables",
            labels={"table": "comparison"},
        ),
        cost=report(
            PATHS.report("tables/cost.html"),
            caption="../report/cost.rst",
            category="Tables",
            labels={"table": "cost"},
        ),
    log:
        PATHS.log("make_tables"),
    conda:
        ENV
    params:
        uses=uses("make_tables"),
    script:
        "../scripts/make_tables.py"


rule collect_answers:
    input:
        **ARTIFACTS.inputs("collect_answers", {}),
        results=PATHS.report("tables/results.json"),
    output:
        PATHS.report("tables/answers.parquet"),
    log:
        PATHS.log("collect_answers"),
    conda:
        ENV
    params:
        uses=uses("collect_answers"),
    script:
        "../scripts/collect_answers.py"


# Learning curves are read from the cells' train_log.jsonl, which cells.smk tells why no rule declares.
rule draw_figures:
    input:
        results=PATHS.report("tables/results.json"),
        scores=PATHS.report("tables/scores.parquet"),
    output:
        [PATHS.figure(name, "svg") for name in FIGURES],
        [
            report(
                PATHS.report(f"figures/{name}.svg"),
                caption=f"../report/{'cost_figure' if name == 'cost' else name}.rst",  # cost.rst is its table's
                category="Figures",
                labels={"figure": name},
            )
            for name in FIGURES
        ],
    log:
        PATHS.log("draw_figures"),
    conda:
        ENV
    params:
        uses=uses("draw_figures"),
    script:
        "../scripts/draw_figures.py"


rule test_claims:
    input:
        results=PATHS.report("tables/results.json"),
        scores=PATHS.report("tables/scores.parquet"),
    output:
        PATHS.report("tables/claims.json"),
        PATHS.table("claims", "html"),
        html=report(
            PATHS.report("tables/claims.html"),
            caption="../report/claims.rst",
            category="Tables",
            labels={"table": "claims"},
        ),
    log:
        PATHS.log("test_claims"),
    conda:
        ENV
    params:
        uses=uses("test_claims"),
    script:
        "../scripts/test_claims.py"


rule report_retrieval:
    input:
        [quality.path for quality in ARTIFACTS.qualities()],
    output:
        PATHS.table("retrieval_quality", "html"),
        PATHS.figure("retrieval_quality", "svg"),
        html=report(
            PATHS.report("tables/retrieval_quality.html"),
            caption="../report/retrieval_quality_table.rst",
            category="Tables",
            labels={"table": "retrieval quality"},
        ),
        svg=report(
            PATHS.report("figures/retrieval_quality.svg"),
            caption="../report/retrieval_quality_figure.rst",
            category="Figures",
            labels={"figure": "retrieval quality"},
        ),
    log:
        PATHS.log("report_retrieval"),
    conda:
        ENV
    params:
        uses=uses("report_retrieval"),
    script:
        "../scripts/report_retrieval.py"
