from pathlib import Path

from retrotune.report.figures.making import draw_figures
from retrotune.runtime.lifecycle import stage_log
from retrotune.study.config import load_config
from retrotune.study.paths import Paths
from retrotune.study.stages import DrawFiguresParams

with stage_log(snakemake.log[0]):
    draw_figures(
        DrawFiguresParams.of(snakemake.params.uses),
        Paths.of(load_config(snakemake.config)),
        snakemake.input.results,
        snakemake.input.scores,
        snakemake.input.diagnosis,
        Path(snakemake.output[0]).parent,
    )
