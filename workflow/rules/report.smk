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
            caption="../report/cost_table.rst",
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


# Training logs are read too, from the cells' folders: no rule declares them (cells.smk).
rule diagnose_cells:
    input:
        results=PATHS.report("tables/results.json"),
        scores=PATHS.report("tables/scores.parquet"),
        answers=PATHS.report("tables/answers.parquet"),
    output:
        PATHS.report("tables/diagnosis.json"),
        PATHS.table("diagnosis", "html"),
        html=report(
            PATHS.report("tables/diagnosis.html"),
            caption="../report/diagnosis.rst",
            category="Tables",
            labels={"table": "diagnosis"},
        ),
    log:
        PATHS.log("diagnose_cells"),
    conda:
        ENV
    params:
        uses=uses("diagnose_cells"),
    script:
        "../scripts/diagnose_cells.py"


rule draw_figures:
    input:
        results=PATHS.report("tables/results.json"),
        scores=PATHS.report("tables/scores.parquet"),
        diagnosis=PATHS.report("tables/diagnosis.json"),
    output:
        [PATHS.figure(name, "svg") for name in FIGURES],
        [
            report(
                PATHS.report(f"figures/{name}.svg"),
                caption=f"../report/{name}.rst",
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


rule write_report:
    input:
        **ARTIFACTS.inputs("write_report", {}),
        answers=PATHS.report("tables/answers.parquet"),
        scores=PATHS.report("tables/scores.parquet"),
        results=PATHS.report("tables/results.json"),
        tables=[PATHS.report(f"tables/{name}.table.json") for name in PAGE.tables],
        figures=[PATHS.report(f"figures/{name}.vl.json") for name in PAGE.figures],
        records=[PATHS.report(f"tables/{name}.json") for name in PAGE.tables if name in ("claims", "diagnosis")],
    output:
        PATHS.report("report.html"),
    log:
        PATHS.log("write_report"),
    conda:
        ENV
    params:
        uses=uses("write_report"),
    script:
        "../scripts/write_report.py"
