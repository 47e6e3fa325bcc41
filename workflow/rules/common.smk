# Helpers of all rules: the validated configuration, paths, and inputs that depend on a cell's coordinates.
# Parsed again in every job and on the login node, so nothing heavy is imported here.
import functools
import json
import os
import re
import signal
import sys
from dataclasses import astuple
from pathlib import Path

PACKAGE = str(Path(workflow.basedir) / "src")
sys.path.insert(0, PACKAGE)
os.environ.update(PYTHONPATH=PACKAGE)
# Slurm sends it to all processes of a job before the time limit. It is meant for the stage, which saves and stops;
# Snakemake itself would die of it, and Slurm would end the stage with it.
signal.signal(signal.SIGUSR1, signal.SIG_IGN)

from retrotune import slurm, warm
from retrotune.cells import Cell, Paths, expand_grid, is_open_domain, resolve_cell
from retrotune.config import WITHOUT_GOLD, DatasetEntry, check_files, load_config
from retrotune.corpus.documents import corpus_files
from retrotune.datasets import get_spec
from retrotune.datasets.prepare import raw_files
from retrotune.errors import ClusterError, ConfigError
from retrotune.stages import STAGE_VERSIONS
from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

slurm.continue_in_step()
# Not for a single script, as in many jobs of a cluster: it would only wait for the imports in another process.
warm.own_scripts(not workflow.remote_exec or sum("_cell:" in argument for argument in sys.argv) > 1)

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
MEASURED = [
    pair
    for pair in dict.fromkeys((cell.retrieval, cell.dataset) for cell in CELLS)
    if CONFIG.evaluation.retrieval_depth
    and CONFIG.retrievals[pair[0]].retriever is not None
    and CONFIG.datasets[pair[1]].reader not in WITHOUT_GOLD
]
ENV = "../../envs/cpu.yaml" if not any(m.resources.gpus for m in CONFIG.models.values()) else "../../envs/gpu.yaml"


def one_of(names):
    """A wildcard constraint that admits exactly these names."""
    return "|".join(sorted(map(re.escape, names))) or "(?!)"


def dump(value):
    """Configuration as text with sorted keys: Snakemake compares params by their text."""
    if hasattr(value, "model_dump"):
        value = value.model_dump(mode="json")
    return json.dumps(value, sort_keys=True)


def version(stage):
    """Params entry that reruns a rule when the output of its library stage changes."""
    return STAGE_VERSIONS[stage]


def cell_of(wildcards):
    return Cell(wildcards.model, wildcards.method, wildcards.dataset, wildcards.retrieval, int(wildcards.seed))


@functools.cache
def resolved(stage, model, method, dataset, retrieval):
    """The part of a cell's configuration that one stage uses, for any seed: seeds are many, the rest is the same."""
    return resolve_cell(CONFIG, Cell(model, method, dataset, retrieval, 0)).for_stage(stage).model_dump(mode="json")


def cell_for(stage):
    """Params function: the part of a cell's configuration that one stage uses."""
    return lambda wildcards: dump({**resolved(stage, *astuple(cell_of(wildcards))[:-1]), "seed": int(wildcards.seed)})


def raw(entry):
    """What a reader's files come from: the demo world, a user's folder, or the download of the official files."""
    if CONFIG.data_root is not None:
        list_files = raw_files if isinstance(entry, DatasetEntry) else corpus_files
        return [str(path) for path in list_files(entry, CONFIG.data_root)]
    return [PATHS.world()] if CONFIG.world is not None else [PATHS.downloaded(entry.download)]


def download_folder(source):
    """Where a source's files go: where the entry that reads them looks for them."""
    entries = [*CONFIG.datasets.values(), *CONFIG.corpora.values()]
    path = Path(next(entry.path for entry in entries if entry.download == source))
    return str(Path(CONFIG.raw) / (path.parent if "." in path.name else path))


def neighbors_of(wildcards, split):
    """The neighbor cache of a cell's dataset; nothing for a retrieval that gets nothing."""
    if CONFIG.retrievals[wildcards.retrieval].retriever is None:
        return []
    return PATHS.neighbors(wildcards.retrieval, wildcards.dataset, split)


def neighbor_caches(cell):
    splits = ("test",) if CONFIG.methods[cell.method].kind == "zeroshot" else ("train", "test")
    return [path for split in splits for path in [neighbors_of(cell, split)] if path]


def tokenizer_of_chunking(wildcards):
    """The tokenizer that cuts passages; nothing where they are cut by words."""
    tokenizer = CONFIG.chunkings[wildcards.chunking].tokenizer
    return [] if tokenizer is None else PATHS.tokenizer(tokenizer)


def passages_of(retrieval, dataset):
    return PATHS.passages(CONFIG.dataset_source(dataset, retrieval), CONFIG.retrievals[retrieval].chunking)


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
    return vectors if source in CONFIG.datasets else {**vectors, "index": PATHS.index(*key, entry.index)}


def search_params(retrieval, **numbers):
    """What determines a search: not the layouts, which say only where passages go afterwards."""
    entry = CONFIG.retrievals[retrieval]
    retriever, index = CONFIG.retrievers[entry.retriever], CONFIG.indexes.get(entry.index)
    base = CONFIG.retrievers.get(retriever.base)
    return dump(
        {
            **(numbers or {"top_k": entry.top_k, "continuation": entry.continuation}),
            "retriever": retriever.model_dump(mode="json"),
            "base": base and base.model_dump(mode="json"),
            "index": index and index.model_dump(mode="json"),
        }
    )


def measured_depth(retrieval):
    """Passages per question that measuring searches; a degraded retriever is measured on those that models get.

    Of more neighbors others are replaced, and of all passages of a document none could be.
    """
    entry, depth = CONFIG.retrievals[retrieval], CONFIG.evaluation.retrieval_depth
    return min(depth, entry.top_k) if CONFIG.retrievers[entry.retriever].kind == "degraded" else depth


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


def corpora_of(entry):
    """Corpora that base models are trained on, as a rule's params hold them."""
    return {name: CONFIG.corpora[name].model_dump(mode="json") for name in entry.corpora}


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


def pretraining_params(wildcards):
    """All entries that determine a pretrained model."""
    entry = CONFIG.models[wildcards.model]
    pretraining = CONFIG.pretrainings[entry.pretraining]
    retrieval = CONFIG.retrievals.get(pretraining.retrieval)
    size = CONFIG.sizes.get(entry.size)
    return dump(
        {
            "family": entry.family,
            "size": size.model_dump(mode="json") if size else entry.size,
            "pretraining": pretraining.model_dump(mode="json"),
            "passages": retrieval.passages(entry.family).model_dump(mode="json") if retrieval else None,
            "corpora": corpora_of(pretraining),
        }
    )


def retrofitting_params(wildcards):
    """All entries that determine a retrofitted model, beside the GPT itself."""
    entry = CONFIG.models[wildcards.model]
    recipe = CONFIG.retrofittings[entry.retrofitting]
    retrieval = CONFIG.retrievals.get(recipe.retrieval)
    return dump(
        {
            "family": entry.family,
            "source": entry.retrofit_from,
            "retrofitting": recipe.model_dump(mode="json"),
            "passages": retrieval.passages(entry.family).model_dump(mode="json") if retrieval else None,
            "corpora": corpora_of(recipe),
        }
    )


def trained(wildcards):
    """What training cost, written last by fine-tuning; nothing for zero-shot."""
    zeroshot = CONFIG.methods[wildcards.method].kind == "zeroshot"
    return [] if zeroshot else f"{CELL}/train.json".format(**dict(wildcards.items()))


def adapter(wildcards):
    """The folder of trained weights; nothing for zero-shot."""
    train = trained(wildcards)
    return str(Path(train).parent / "adapter") if train else []


def dataset_version(dataset):
    """Params entry that reruns what a dataset's prompts, splits and answers determine when its file says so."""
    return get_spec(CONFIG.datasets[dataset].reader).version


def warn_missing_checkpoints():
    """Name each base checkpoint that is not there yet, once, with what to put where. Planning goes on."""
    missing = {}
    names = {cell.model for cell in CELLS}
    while sources := {CONFIG.models[name].retrofit_from for name in names} - names - {None}:
        names |= sources
    for name in sorted(names):
        model = CONFIG.models[name]
        source = model.path or (model.checkpoint.path if model.checkpoint and not model.checkpoint.package else None)
        if source is not None and not Path(source).exists() and not Path(PATHS.model_manifest(name)).exists():
            what = "a model folder in transformers layout" if model.path else "the checkpoint to convert"
            missing.setdefault((source, what), []).append(f"models.{name}")
    for (source, what), names in missing.items():
        logger.warning(f"{', '.join(names)}: {source} is not there yet: put {what} there before running its cells")


warn_missing_checkpoints()


wildcard_constraints:
    download=r"[a-z-]+",
    model=one_of(CONFIG.models),
    method=one_of(CONFIG.methods),
    dataset=one_of(CONFIG.datasets),
    retrieval=one_of(CONFIG.retrievals),
    corpus=one_of(CONFIG.corpora),
    source=one_of([*CONFIG.corpora, *CONFIG.datasets]),
    chunking=one_of(CONFIG.chunkings),
    retriever=one_of(CONFIG.retrievers),
    index=one_of(CONFIG.indexes),
    tokenizer=one_of(CONFIG.tokenizers),
    pretraining=one_of(CONFIG.pretrainings),
    retrofitting=one_of(CONFIG.retrofittings),
    split="train|test",
    seed=r"\d+",
