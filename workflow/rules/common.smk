# Helpers of all rules: the validated configuration, paths, and inputs that depend on a cell's coordinates.
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

from retrotune.runtime.slurm import limits as slurm, queue

from retrotune.runtime import warm
from retrotune.study.cells import Cell, expand_grid
from retrotune.study.artifacts import Paths
from retrotune.study.config import DatasetEntry, check_files, load_config
from retrotune.study.raw import corpus_files
from retrotune.study.raw import raw_files
from retrotune.errors import ClusterError, ConfigError
from retrotune.study.outside import missing, read_by_job, read_by_study
from retrotune.study.resolve import measured, resolve
from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

# Not for a single script, as in many jobs of a cluster: it would only wait for the imports in another process. Nor for the
# head of a run on a cluster, which only scores: 0.5 GB of torch that nothing there needs.
here = not workflow.remote_exec and workflow.resource_settings.nodes is None
warm.own_scripts(here or sum("_cell:" in argument for argument in sys.argv) > 1)

try:
    slurm.check_profile(workflow.resource_settings.default_resources or ())
    check_files([*workflow.configfiles, *sorted(Path(workflow.basedir).glob("profiles/*/config.yaml"))], sys.argv)
    CONFIG = load_config(config)
    CELLS = expand_grid(CONFIG)
except (ClusterError, ConfigError) as error:
    raise WorkflowError(str(error)) from None
PATHS = Paths.of(CONFIG)
CELL = PATHS.cell("{model}/{method}/{dataset}/{retrieval}/seed{seed}")
WORK = PATHS.work("{model}/{method}/{dataset}/{retrieval}/seed{seed}")
CELL_LOG = "{model}/{method}/{dataset}/{retrieval}/seed{seed}.log"
# retrievals are compared in a table of their own where a study has several
RETRIEVAL_TABLES = ("csv", "md", "tex", "html") if len({cell.retrieval for cell in CELLS}) > 1 else ()
# retrievals whose quality is measured, with the test questions that they are measured on
MEASURED = measured(CONFIG)
ENV = "../../envs/cpu.yaml" if not any(m.resources.gpus for m in CONFIG.models.values()) else "../../envs/gpu.yaml"


def one_of(names):
    """A wildcard constraint that admits exactly these names."""
    return "|".join(sorted(map(re.escape, names))) or "(?!)"


@functools.cache
def used(stage, wildcards):
    return resolve(CONFIG, stage, dict(wildcards)).text()


def uses(stage):
    """Params function: all that a stage uses of the configuration, and the number of its code."""
    # seeds are many, and the rest is the same for all of them
    return lambda wildcards: used(stage, tuple((key, name) for key, name in wildcards.items() if key != "seed"))


def raw(entry, split="train"):
    """What a reader's files come from: the demo world, a user's folder, or the download of the official files."""
    if CONFIG.data_root is not None:
        if isinstance(entry, DatasetEntry):
            return [str(path) for path in raw_files(entry, CONFIG.data_root, split)]
        return [str(path) for path in corpus_files(entry, CONFIG.data_root)]
    return [PATHS.world()] if CONFIG.world is not None else [PATHS.downloaded(entry.download)]


def neighbors_of(wildcards, split):
    """The neighbor cache of a cell's dataset; nothing for a retrieval that gets nothing."""
    if CONFIG.retrievals[wildcards.retrieval].retriever is None:
        return []
    return PATHS.neighbors(wildcards.retrieval, wildcards.dataset, split)


def neighbor_caches(cell):
    splits = ("train", "test") if CONFIG.methods[cell.method].trained else ("test",)
    return [path for split in splits for path in [neighbors_of(cell, split)] if path]


def tokenizer_of_chunking(wildcards):
    """The tokenizer that cuts passages; nothing where they are cut by words."""
    tokenizer = CONFIG.chunkings[wildcards.chunking].tokenizer
    return [] if tokenizer is None else PATHS.tokenizer(tokenizer)


def question_search(wildcards, split, answers=False):
    """What is searched for a split's questions, and their answers where the retriever looks for them, or if asked."""
    retrieval = CONFIG.retrievals[wildcards.retrieval]
    source = CONFIG.dataset_source(wildcards.dataset, wildcards.retrieval, split)
    answers = answers or CONFIG.retrievers[CONFIG.searching(retrieval.retriever)].kind == "gold"
    return {
        "examples": PATHS.examples(wildcards.dataset, split),
        "passages": PATHS.passages(source, retrieval.chunking),
        **({"references": PATHS.references(wildcards.dataset, split)} if answers else {}),
        **vectors_of(wildcards.retrieval, source),
    }


def vectors_of(retrieval, source):
    """Vectors of the dense retriever that searches one source, and the index over a corpus; nothing for other kinds.

    A document's passages are few and are searched exactly, without an index.
    """
    entry = CONFIG.retrievals[retrieval]
    searching = CONFIG.searching(entry.retriever)
    if CONFIG.retrievers[searching].kind != "dense":
        return {}
    key = (searching, source, entry.chunking)
    vectors = {"embeddings": PATHS.embeddings(*key)}
    return vectors if source not in CONFIG.corpora else {**vectors, "index": PATHS.index(*key, entry.index)}


def pretraining_search(wildcards):
    """Inputs of a pretraining's neighbor cache."""
    entry = CONFIG.pretrainings[wildcards.pretraining]
    return {"tokenizer": PATHS.tokenizer(entry.tokenizer), **text_search(entry)}


def retrofitting_search(wildcards):
    """Inputs of a retrofitting's neighbor cache: chunks are cut by the tokenizer of the GPT that is retrofitted."""
    return {
        "model": PATHS.model_manifest(wildcards.model),
        **text_search(CONFIG.retrofittings[wildcards.retrofitting]),
    }


def text_search(entry):
    """Text that base models are trained on, and what is searched for its neighbors."""
    return {
        "raw": texts_of(entry),
        "passages": corpus_passages(entry),
        **vectors_of(entry.retrieval, CONFIG.retrievals[entry.retrieval].corpus),
    }


def corpus_passages(entry):
    """Passages that are searched for the neighbors of training text, whose cache holds their rows only."""
    retrieval = CONFIG.retrievals[entry.retrieval]
    return PATHS.passages(retrieval.corpus, retrieval.chunking)


def texts_of(entry):
    """Files of the text that base models are trained on."""
    return [path for name in entry.corpora for path in raw(CONFIG.corpora[name])]


def models_from(source):
    """Wildcard constraint: models whose source this is."""
    return one_of(name for name, entry in CONFIG.models.items() if getattr(entry, source) is not None)


def pretraining_inputs(wildcards):
    """Text, tokenizer and neighbors of a model that is trained from scratch."""
    entry = CONFIG.models[wildcards.model]
    pretraining = CONFIG.pretrainings[entry.pretraining]
    files = {"raw": texts_of(pretraining), "tokenizer": PATHS.tokenizer(pretraining.tokenizer)}
    if uses_passages(entry.family, pretraining):
        chunk_length = CONFIG.sizes[entry.size].chunk_length if entry.size in CONFIG.sizes else 64
        files["neighbors"] = PATHS.pretraining_neighbors(entry.pretraining, per_chunk(pretraining, chunk_length))
        files["passages"] = corpus_passages(pretraining)
    return files


def retrofitting_inputs(wildcards):
    """Text, neighbors, and the GPT that a model is trained from."""
    entry = CONFIG.models[wildcards.model]
    recipe = CONFIG.retrofittings[entry.retrofitting]
    files = {"raw": texts_of(recipe), "source": PATHS.model_manifest(entry.retrofit_from)}
    if uses_passages(entry.family, recipe):
        chunk_length = per_chunk(recipe, recipe.chunk_length)
        files["neighbors"] = PATHS.retrofitting_neighbors(entry.retrofitting, entry.retrofit_from, chunk_length)
        files["passages"] = corpus_passages(recipe)
    return files


def uses_passages(family, recipe):
    """Whether the training of a base model gets passages at all."""
    retrieval = CONFIG.retrievals.get(recipe.retrieval)
    return retrieval is not None and retrieval.passages(family).needed > 0


def per_chunk(recipe, chunk_length):
    """0 where neighbors belong to whole documents, else the length of the chunks that have some."""
    return 0 if recipe.neighbors_per == "document" else chunk_length


def trained(wildcards):
    """What training cost, written last by fine-tuning; nothing for zero-shot."""
    trained = CONFIG.methods[wildcards.method].trained
    return f"{CELL}/train.json".format(**dict(wildcards.items())) if trained else []


def adapter(wildcards):
    """The folder of trained weights; nothing for zero-shot."""
    train = trained(wildcards)
    return str(Path(train).parent / "adapter") if train else []


# Planning goes on without what is not there yet; a run does not begin.
for lacking in missing(CONFIG, *read_by_study(CONFIG, {cell.model for cell in CELLS})):
    logger.warning(f"{lacking} before running its cells")


def check_outside():
    """Before the first job: refuse to begin without the models and encoders that jobs of this run read."""
    jobs = [read_by_job(CONFIG, job.rule.name, dict(job.wildcards.items())) for job in workflow.dag.needrun_jobs()]
    models, retrievers = (set().union(*names) for names in zip(*jobs)) if jobs else ((), ())
    if lacking := missing(CONFIG, models, retrievers):
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
