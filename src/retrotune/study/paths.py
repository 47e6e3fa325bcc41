"""Where every file of a study lies. Paths take names or Snakemake wildcards alike."""

import difflib
from collections.abc import Iterable

from retrotune.errors import ConfigError
from retrotune.study.cells import COORDINATES, Cell, grid_cells
from retrotune.study.config import Config, nearest

CELL = "{model}/{method}/{dataset}/{retrieval}/seed{seed}"
"""Folder of a cell below the others, with its rules' wildcards."""
CELL_STAGES = {"finetune_cell": "train.json", "predict_cell": "predict.json", "score_cell": "metrics.json"}
"""Stages of a cell in their order, and the file by which each is done."""
MODEL_STAGES = ("pretrain_model", "retrofit_model", "fetch_model", "convert_model")
"""Stages that may make a base model."""
REPORT_STAGES = (
    "collect_metrics",
    "collect_answers",
    "make_tables",
    "diagnose_cells",
    "draw_figures",
    "test_claims",
    "report_retrieval",
    "write_report",
)
"""Stages that make something of all cells' results."""
TABLE_FORMS = ("csv", "parquet", "md", "tex", "html", "table.json")
"""Suffixes of a table's files."""
FIGURE_FORMS = ("svg", "pdf", "png", "vl.json")
"""Suffixes of a figure's files; the last is its Vega-Lite specification, data included."""
LOGS = {
    "write_world": "write_world.log",
    "download_source": "download_source/{download}.log",
    "prepare_train": "prepare_train/{dataset}.log",
    "prepare_test": "prepare_test/{dataset}.log",
    "chunk_corpus": "chunk_corpus/{corpus}-{chunking}.log",
    "chunk_documents": "chunk_documents/{dataset}-{split}-{chunking}.log",
    "train_tokenizer": "train_tokenizer/{tokenizer}.log",
    "embed_passages": "embed_passages/{retriever}-{source}-{chunking}.log",
    "build_index": "build_index/{retriever}-{source}-{chunking}-{index}.log",
    "cache_neighbors": "cache_neighbors/{retrieval}-{dataset}-{split}.log",
    "measure_retrieval": "measure_retrieval/{retrieval}-{dataset}.log",
    "cache_pretraining_neighbors": "cache_pretraining_neighbors/{pretraining}-{chunk_length}.log",
    "cache_retrofitting_neighbors": "cache_retrofitting_neighbors/{retrofitting}-{model}-{chunk_length}.log",
    "pretrain_model": "pretrain_model/{model}.log",
    "retrofit_model": "retrofit_model/{model}.log",
    "fetch_model": "fetch_model/{model}.log",
    "convert_model": "convert_model/{model}.log",
    "finetune_cell": f"finetune_cell/{CELL}.log",
    "predict_cell": f"predict_cell/{CELL}.log",
    "score_cell": f"score_cell/{CELL}.log",
    "collect_metrics": "collect_metrics.log",
    "make_tables": "make_tables.log",
    "collect_answers": "collect_answers.log",
    "diagnose_cells": "diagnose_cells.log",
    "draw_figures": "draw_figures.log",
    "test_claims": "test_claims.log",
    "report_retrieval": "report_retrieval.log",
    "write_report": "write_report.log",
}
"""Log of each stage below the study's folder of logs, with the wildcards of its rule."""


def stages_of(trained: bool) -> list[str]:
    """Stages of a cell whose method trains something, or nothing."""
    return [stage for stage in CELL_STAGES if stage != "finetune_cell" or trained]


class Paths:
    """Where the files of one study lie. `source` is a corpus, or `dataset/split`: that split's own documents."""

    def __init__(self, resources: str, results: str, study: str) -> None:
        self.resources = resources
        self.name = study
        self.study = f"{results}/{study}"

    @classmethod
    def of(cls, config: Config) -> "Paths":
        """Paths of a configuration."""
        return cls(config.resources, config.results_dir, config.study)

    # raw files -----------------------------------------------------------------------------------------------------
    def world(self) -> str:
        """Last file of the demo world."""
        return f"{self.resources}/raw/world.json"

    def downloaded(self, source: str) -> str:
        """Written when all files of an official source are there."""
        return f"{self.resources}/raw/{source}.downloaded.json"

    # shared by all cells -------------------------------------------------------------------------------------------
    def examples(self, dataset: str, split: str) -> str:
        """Questions of one split (train, test): parquet, one row per question; training questions with the answer."""
        return f"{self.resources}/datasets/{dataset}/{split}.parquet"

    def references(self, dataset: str, split: str) -> str:
        """What the answers of one split are held against: parquet with all answers, options and evidence."""
        return f"{self.resources}/datasets/{dataset}/{split}.references.parquet"

    def documents(self, dataset: str, split: str) -> str:
        """Documents of one split's questions: parquet with doc_id, title, text; none of an open-domain dataset."""
        return f"{self.resources}/datasets/{dataset}/{split}.documents.parquet"

    def passages(self, source: str, chunking: str) -> str:
        """Passages: parquet with passage_id, doc_id, title, text; row number = vector number."""
        return f"{self.resources}/passages/{source}/{chunking}.parquet"

    def embeddings(self, retriever: str, source: str, chunking: str) -> str:
        """Manifest of the numbered vector blocks that lie in the folder of the same name without `.json`."""
        return f"{self.resources}/embeddings/{retriever}/{source}/{chunking}.json"

    def index(self, retriever: str, source: str, chunking: str, index: str) -> str:
        """What an index is made of; its shards lie in the folder of the same name, measurements in `.manifest.json`."""
        return f"{self.resources}/indexes/{retriever}/{source}/{chunking}/{index}.json"

    def neighbors(self, retrieval: str, dataset: str, split: str) -> str:
        """Neighbor cache: parquet with question_id, rank, passage_id, title, text, score; blocks in a folder beside."""
        return f"{self.resources}/neighbors/{retrieval}/{dataset}/{split}.parquet"

    def quality(self, retrieval: str, dataset: str) -> str:
        """How well a retrieval finds what a dataset's test questions ask for."""
        return f"{self.resources}/neighbors/{retrieval}/{dataset}/quality.json"

    def tokenizer(self, tokenizer: str) -> str:
        """A trained tokenizer's file in tokenizers' JSON format."""
        return f"{self.resources}/tokenizers/{tokenizer}/tokenizer.json"

    def pretraining_neighbors(self, pretraining: str, chunk_length: int | str) -> str:
        """Neighbors of pretraining chunks of a length (0: of whole documents).

        Manifest of the blocks of passage rows that lie in the folder of the same name without `.json`.
        """
        return f"{self.resources}/pretraining/{pretraining}/neighbors-{chunk_length}.json"

    def retrofitting_neighbors(self, retrofitting: str, model: str, chunk_length: int | str) -> str:
        """As `pretraining_neighbors`, of chunks that the tokenizer of the GPT `model` cuts."""
        return f"{self.resources}/retrofitting/{retrofitting}/{model}/neighbors-{chunk_length}.json"

    def model(self, model: str) -> str:
        """Folder of a base model in transformers layout, tokenizer included; its manifest is written last."""
        return f"{self.resources}/models/{model}"

    def model_manifest(self, model: str) -> str:
        """Manifest of a base model: written last, its existence says that the model is whole."""
        return f"{self.model(model)}/manifest.json"

    def packages(self) -> str:
        """Folder of files taken out of Python packages, one folder per package and version."""
        return f"{self.resources}/packages"

    def model_work(self, model: str) -> str:
        """Work folder of a base model's training, beside the model, which studies with these resources share."""
        return f"{self.resources}/work/models/{model}"

    # cells ---------------------------------------------------------------------------------------------------------
    def cell(self, cell: Cell | str, file: str = "") -> str:
        """Folder of a cell, or a file in it."""
        name = cell if isinstance(cell, str) else cell.name
        return f"{self.study}/cells/{name}" + (f"/{file}" if file else "")

    def work(self, name: str) -> str:
        """Work folder that no rule declares: checkpoints and partial results survive a failed job there."""
        return f"{self.study}/work/{name}"

    def log(self, stage: str, **names: object) -> str:
        """Log of a stage's job: of the one with these values of its rule's wildcards, else as a pattern of them."""
        pattern = f"logs/{self.name}/{LOGS[stage]}"
        return pattern.format(**names) if names else pattern

    def benchmark(self, stage: str) -> str:
        """Snakemake's own measurements of a stage's job, beside its log."""
        return self.log(stage).removesuffix(".log") + ".benchmark.tsv"

    def report(self, file: str) -> str:
        """A table, figure or page made from all cells."""
        return f"{self.study}/{file}"

    def table(self, name: str, *but: str) -> list[str]:
        """A table in all its forms, those with the suffixes `but` left out."""
        return [self.report(f"tables/{name}.{suffix}") for suffix in TABLE_FORMS if suffix not in but]

    def figure(self, name: str, *but: str) -> list[str]:
        """A figure in all its forms, those with the suffixes `but` left out."""
        return [self.report(f"figures/{name}.{suffix}") for suffix in FIGURE_FORMS if suffix not in but]

    def so_far(self, file: str = "") -> str:
        """Folder of what `retrotune tables` makes of unfinished or selected cells, or a file in it.

        The workflow never writes there: what lies in its own folders is what it made of all its cells.
        """
        return f"{self.study}/so-far" + (f"/{file}" if file else "")

    def metrics(self, cells: Iterable[Cell]) -> list[str]:
        """The `metrics.json` of each cell."""
        return [self.cell(cell, "metrics.json") for cell in cells]


def find_cell(config: Config, name: str) -> Cell:
    """The cell called MODEL/METHOD/DATASET/RETRIEVAL/seedN, also as the path of its folder or of a file in it.

    Raises `ConfigError` with the nearest names if the study has no such cell.
    """
    cells = {cell.name: cell for cell in grid_cells(config)}
    prefix = Paths.of(config).cell("")
    parts = name.removeprefix("./").removeprefix(prefix).strip("/").split("/")[: len(COORDINATES)]
    wanted = "/".join(parts)
    if wanted in cells:
        return cells[wanted]
    hints = []
    if len(parts) == len(COORDINATES):
        for place, (key, part) in enumerate(zip(COORDINATES, parts, strict=True)):
            known = sorted({cell.split("/")[place] for cell in cells})
            if part not in known:
                hints.append(f"{key} {part!r}: {nearest(part, known)}")
    if not hints:
        close = difflib.get_close_matches(wanted, list(cells), n=3, cutoff=0.5)
        hints = [f"the nearest are {', '.join(close)}" if close else "write MODEL/METHOD/DATASET/RETRIEVAL/seedN"]
    raise ConfigError(f"{name}: no cell of the study {config.study}; {'; '.join(hints)}")
