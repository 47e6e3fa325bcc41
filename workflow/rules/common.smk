# Helpers of all rules: the validated configuration, paths, and inputs that depend on a job's coordinates.
# Parsed again in every job and on the login node, so nothing heavy is imported here.
import functools
import os
import re
import signal
import sys
from pathlib import Path

PACKAGE = str(Path(workflow.basedir) / "src")
sys.path.insert(0, PACKAGE)
os.environ.update(PYTHONPATH=PACKAGE)
# Slurm sends it to all processes of a job before the time limit. It is meant for the stage, which saves and stops;
# Snakemake itself would die of it, and Slurm would end the stage with it.
signal.signal(signal.SIGUSR1, signal.SIG_IGN)

from retrotune.errors import ClusterError, ConfigError
from retrotune.runtime import warm
from retrotune.runtime.asked import gpus_asked, unseen_gpus
from retrotune.runtime.slurm.limits import check_cluster, check_profile
from retrotune.runtime.slurm.queue import accounting_answers, cancel_left, failed_without_log, jobs_of_others
from retrotune.study.artifacts import Artifact, Artifacts
from retrotune.study.cells import expand_grid
from retrotune.study.config import check_files, load_config
from retrotune.study.outside import missing, read_by_jobs, read_by_study
from retrotune.study.paths import CELL as CELL_NAME, Paths
from retrotune.study.requests import KEYS, Requests
from retrotune.study.resolve import drawing_figures, making_tables, resolve, writing_report
from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

try:
    check_profile(workflow.resource_settings.default_resources or ())
    check_files([*workflow.configfiles, *sorted(Path(workflow.basedir).glob("profiles/*/config.yaml"))], sys.argv)
    CONFIG = load_config(config)
    CELLS = expand_grid(CONFIG)
    TABLES = making_tables(CONFIG).tables
    FIGURES = drawing_figures(CONFIG).figures
    PAGE = writing_report(CONFIG)
except (ClusterError, ConfigError) as error:
    raise WorkflowError(str(error)) from None
PATHS = Paths.of(CONFIG)
ARTIFACTS = Artifacts(CONFIG)
CELL = PATHS.cell(CELL_NAME)
WORK = PATHS.work(CELL_NAME)
ENV = "../../envs/cpu.yaml" if not any(m.resources.gpus for m in CONFIG.models.values()) else "../../envs/gpu.yaml"
# Not on a cluster: a job runs one script, and its head only scores, which needs no torch.
if workflow.remote_exec or workflow.resource_settings.nodes is not None:
    os.environ.pop(warm.OWNER, None)
else:
    warm.own_scripts()


def needs(stage, name=None):
    """Input function: what a stage needs under one name, or (None) all of it, to be unpacked."""

    def inputs(wildcards):
        found = ARTIFACTS.inputs(stage, dict(wildcards.items()))
        return found if name is None else found.get(name, [])

    return inputs


@functools.cache
def used(stage, names):
    return resolve(CONFIG, stage, dict(names)).text()


def uses(stage):
    """Params function: all that a stage uses of the configuration, and the number of its code."""
    # seeds are many, and the rest is the same for all of them
    return lambda wildcards: used(stage, tuple((key, name) for key, name in wildcards.items() if key != "seed"))


def one_of(names):
    """A wildcard constraint that admits exactly these names."""
    return "|".join(sorted(map(re.escape, names))) or "(?!)"


def models_of(stage):
    """Wildcard constraint: base models that this stage makes."""
    return one_of(name for name in CONFIG.models if ARTIFACTS.model(name).stage == stage)


# Planning goes on without what is not there yet; a run does not begin.
for lacking in missing(CONFIG, *read_by_study(CONFIG)):
    logger.warning(f"{lacking} before running its cells")


def check_outside():
    """Before the first job: refuse to begin without the models and encoders that jobs of this run read."""
    made = [
        Artifact(job.output[0], job.rule.name, tuple(job.wildcards.items()))
        for job in workflow.dag.needrun_jobs()
        if job.output
    ]
    if lacking := missing(CONFIG, *read_by_jobs(CONFIG, made)):
        raise WorkflowError("\n".join(map(str, lacking)))


wildcard_constraints:
    download=one_of({entry.download or "none" for entry in (*CONFIG.datasets.values(), *CONFIG.corpora.values())}),
    model=one_of(CONFIG.models),
    method=one_of(CONFIG.methods),
    dataset=one_of(CONFIG.datasets),
    retrieval=one_of(CONFIG.retrievals),
    corpus=one_of(CONFIG.corpora),
    source=one_of([*CONFIG.corpora, *(f"{name}/{split}" for name in CONFIG.datasets for split in ("train", "test"))]),
    chunking=one_of(CONFIG.chunkings),
    retriever=one_of(CONFIG.retrievers),
    index=one_of(CONFIG.indexes),
    tokenizer=one_of(CONFIG.tokenizers),
    pretraining=one_of(CONFIG.pretrainings),
    retrofitting=one_of(CONFIG.retrofittings),
    split="train|test",
    seed=r"\d+",
