"""retrotune: retrieval x parameter-efficient fine-tuning, for GPT and RETRO. Targets: all, models, neighbors."""

from snakemake.utils import min_version

min_version("9.20")


# Without a configuration file on the command line the study is the embedded demo. Snakemake merges files, so the
# demo must not be read beside another study.
if not workflow.config_settings.configfiles:

    configfile: "config/config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/cluster.smk"
include: "workflow/rules/heads.smk"
include: "workflow/rules/corpus.smk"
include: "workflow/rules/retrieval.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/cells.smk"
include: "workflow/rules/report.smk"


# On a cluster what needs the network runs where Snakemake runs, and so do scores and tables: they take seconds, a
# place in a queue minutes.
localrules:
    download_source,
    fetch_model,
    all,
    models,
    neighbors,
    score_cell,
    collect_metrics,
    make_tables,
    collect_answers,
    diagnose_cells,
    draw_figures,
    test_claims,
    report_retrieval,
    write_report,


onstart:
    claim_files()
    check_outside()
    warn_of_gpus()
    prepare_cluster()


onerror:
    clean_cluster(log)


rule all:
    default_target: True
    input:
        # cells and their collection too: Snakemake does not miss a deleted file between others that exist
        PATHS.metrics(CELLS),
        PATHS.report("tables/results.json"),
        PATHS.report("tables/comparison.md"),
        PATHS.report("tables/diagnosis.json"),
        [PATHS.report(f"figures/{name}.svg") for name in FIGURES],
        PATHS.report("report.html"),
        [PATHS.report("tables/claims.json")] if CONFIG.claims else [],
        [PATHS.report("tables/retrieval_quality.md"), PATHS.report("figures/retrieval_quality.svg")]
        if ARTIFACTS.measured()
        else [],


rule models:
    input:
        [PATHS.model_manifest(name) for name in sorted({cell.model for cell in CELLS})],


rule neighbors:
    input:
        sorted(search.cache.path for search in ARTIFACTS.searches() if search.cache.stage == "cache_neighbors"),
