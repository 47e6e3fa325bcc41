"""The graph of a study's artifacts: which stage makes each, and what that stage needs.

A stage is called as its rule; `names` are the values of the rule's wildcards. Rules spell what they always need, and
take from here what depends on the configuration. Plans, checks, states and explanations walk the same graph.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from retrotune.study.cells import Cell, expand_grid
from retrotune.study.config import BaseTraining, Config, CorpusEntry, DatasetEntry, ModelEntry
from retrotune.study.paths import LOGS, Paths, stages_of
from retrotune.study.raw import corpus_files, raw_files

Names = Mapping[str, str]


@dataclass(frozen=True)
class Artifact:
    """A file and what makes it: a stage, for the values of its rule's wildcards. Without a stage it is the user's."""

    path: str
    stage: str | None = None
    names: tuple[tuple[str, str], ...] = ()

    @property
    def wildcards(self) -> dict[str, str]:
        """`names` as a mapping."""
        return dict(self.names)


class Search(NamedTuple):
    """A neighbor cache, the retrieval that makes it, and the source searched: a corpus, or a split's own documents."""

    cache: Artifact
    retrieval: str
    source: str


Needs = dict[str, Artifact | list[Artifact]]
"""What a stage needs, by the name of its rule's input; what it does not need is left out."""


class Artifacts:
    """The artifacts of one study."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.paths = Paths.of(config)
        self._models = {name: self._base_model(name, entry) for name, entry in config.models.items()}

    # what there is -------------------------------------------------------------------------------------------------
    def raw(self, entry: DatasetEntry | CorpusEntry, split: str = "train") -> list[Artifact]:
        """Files that a reader reads: the user's, the demo world's, or the download of the official ones."""
        config = self.config
        if config.data_root is not None:
            if isinstance(entry, DatasetEntry):
                return [Artifact(str(path)) for path in raw_files(entry, config.data_root, split)]
            return [Artifact(str(path)) for path in corpus_files(entry, config.data_root)]
        if config.world is not None:
            return [_made(self.paths.world(), "write_world")]
        download = str(entry.download)
        return [_made(self.paths.downloaded(download), "download_source", download=download)]

    def examples(self, dataset: str, split: str) -> Artifact:
        """Questions of a split."""
        return _made(self.paths.examples(dataset, split), f"prepare_{split}", dataset=dataset)

    def references(self, dataset: str, split: str) -> Artifact:
        """What the answers of a split are held against."""
        return _made(self.paths.references(dataset, split), f"prepare_{split}", dataset=dataset)

    def passages(self, source: str, chunking: str) -> Artifact:
        """Passages of a corpus, or of one split's own documents."""
        path = self.paths.passages(source, chunking)
        if source in self.config.corpora:
            return _made(path, "chunk_corpus", corpus=source, chunking=chunking)
        dataset, split = source.rsplit("/", 1)
        return _made(path, "chunk_documents", dataset=dataset, split=split, chunking=chunking)

    def neighbors(self, retrieval: str, dataset: str, split: str) -> Artifact | None:
        """Neighbor cache of a split's questions; None for a retrieval that gets nothing."""
        if self.config.retrievals[retrieval].retriever is None:
            return None
        path = self.paths.neighbors(retrieval, dataset, split)
        return _made(path, "cache_neighbors", retrieval=retrieval, dataset=dataset, split=split)

    def tokenizer(self, tokenizer: str) -> Artifact:
        """A tokenizer that is trained here."""
        return _made(self.paths.tokenizer(tokenizer), "train_tokenizer", tokenizer=tokenizer)

    def model(self, model: str) -> Artifact:
        """A base model: trained here, retrofitted from another, converted, fetched from the hub or from a folder."""
        return self._models[model]

    def _base_model(self, model: str, entry: ModelEntry) -> Artifact:
        made_by = {
            "pretrain_model": entry.pretraining,
            "retrofit_model": entry.retrofit_from,
            "convert_model": entry.checkpoint,
            "fetch_model": entry.hub or entry.path,
        }
        stage = next(stage for stage, source in made_by.items() if source is not None)
        return _made(self.paths.model_manifest(model), stage, model=model)

    def cell(self, cell: Cell, stage: str, file: str) -> Artifact:
        """A file of a cell."""
        return _made(self.paths.cell(cell, file), stage, **_names_of(cell))

    def cell_stages(self, cell: Cell) -> list[str]:
        """Stages of a cell, in their order."""
        return stages_of(self.config.methods[cell.method].trained)

    def metrics(self) -> list[Artifact]:
        """The result of each cell of the study."""
        return [self.cell(cell, "score_cell", "metrics.json") for cell in expand_grid(self.config)]

    def measured(self) -> list[tuple[str, str]]:
        """(retrieval, dataset) whose quality is measured: cells search there, and passages can hold the answers."""
        config = self.config
        pairs = dict.fromkeys((cell.retrieval, cell.dataset) for cell in expand_grid(config))
        return [
            (retrieval, dataset)
            for retrieval, dataset in pairs
            if config.evaluation.retrieval_depth
            and config.retrievals[retrieval].retriever is not None
            and config.datasets[dataset].record.gold
        ]

    def qualities(self) -> list[Artifact]:
        """The measured quality of each of `measured`."""
        return [
            _made(self.paths.quality(*pair), "measure_retrieval", retrieval=pair[0], dataset=pair[1])
            for pair in self.measured()
        ]

    # what is needed ------------------------------------------------------------------------------------------------
    def needs(self, stage: str, names: Names) -> Needs:
        """What the job of a stage with these `names` reads: the private method that is called as the stage says."""
        assert stage in LOGS, f"{stage} is no stage"
        found = getattr(self, f"_{stage}", None)
        return {} if found is None else {name: need for name, need in found(**names).items() if need is not None}

    def inputs(self, stage: str, names: Names) -> dict[str, str | list[str]]:
        """Paths of what the job of a stage reads, as its rule gives them to Snakemake."""
        return {
            name: need.path if isinstance(need, Artifact) else [one.path for one in need]
            for name, need in self.needs(stage, names).items()
        }

    def rest_on(self, artifacts: Iterable[Artifact]) -> list[Artifact]:
        """`artifacts` and all that is needed to make them, each file once, what is needed first."""
        order: dict[str, Artifact] = {}

        def visit(artifact: Artifact) -> None:
            if artifact.path in order:
                return
            if artifact.stage is not None:
                for need in self.needs(artifact.stage, artifact.wildcards).values():
                    for one in [need] if isinstance(need, Artifact) else need:
                        visit(one)
            order[artifact.path] = artifact

        for artifact in artifacts:
            visit(artifact)
        return list(order.values())

    def all(self) -> list[Artifact]:
        """All that the study's cells and tables of retrieval rest on, what is needed first."""
        return self.rest_on([*self.metrics(), *self.qualities()])

    def searches(self) -> list["Search"]:
        """Every neighbor cache that the study's cells and base models read."""
        found = []
        for cache in self.all():
            retrieval = self.retrieval_of(cache)
            if retrieval is None or cache.stage == "measure_retrieval":
                continue
            names = cache.wildcards
            if cache.stage == "cache_neighbors":
                source = self.config.dataset_source(names["dataset"], retrieval, names["split"])
            else:
                source = str(self.config.retrievals[retrieval].corpus)
            found.append(Search(cache, retrieval, source))
        return found

    def retrieval_of(self, artifact: Artifact) -> str | None:
        """The retrieval through which the job that makes an artifact searches."""
        names = artifact.wildcards
        if artifact.stage in ("cache_neighbors", "measure_retrieval"):
            return names["retrieval"]
        if artifact.stage == "cache_pretraining_neighbors":
            return self.config.pretrainings[names["pretraining"]].retrieval
        if artifact.stage == "cache_retrofitting_neighbors":
            return self.config.retrofittings[names["retrofitting"]].retrieval
        return None

    def log(self, artifact: Artifact) -> str:
        """Log of the job that makes an artifact."""
        assert artifact.stage is not None, f"{artifact.path} is made by no stage"
        return self.paths.log(artifact.stage, **artifact.wildcards)

    # data and passages
    def _prepare_train(self, dataset: str) -> dict[str, Any]:
        return {"raw": self.raw(self.config.datasets[dataset], "train")}

    def _prepare_test(self, dataset: str) -> dict[str, Any]:
        return {"raw": self.raw(self.config.datasets[dataset], "test")}

    def _chunk_corpus(self, corpus: str, chunking: str) -> dict[str, Any]:
        return {"raw": self.raw(self.config.corpora[corpus]), "tokenizer": self._cutting(chunking)}

    def _chunk_documents(self, dataset: str, split: str, chunking: str) -> dict[str, Any]:
        documents = _made(self.paths.documents(dataset, split), f"prepare_{split}", dataset=dataset)
        return {"documents": documents, "tokenizer": self._cutting(chunking)}

    def _cutting(self, chunking: str) -> Artifact | None:
        """The tokenizer that cuts passages; None where they are cut by words."""
        tokenizer = self.config.chunkings[chunking].tokenizer
        return None if tokenizer is None else self.tokenizer(tokenizer)

    def _train_tokenizer(self, tokenizer: str) -> dict[str, Any]:
        return {"raw": self._texts(self.config.tokenizers[tokenizer].corpora)}

    def _texts(self, corpora: Iterable[str]) -> list[Artifact]:
        return [file for name in corpora for file in self.raw(self.config.corpora[name])]

    # retrieval
    def _embed_passages(self, retriever: str, source: str, chunking: str) -> dict[str, Any]:
        return {"passages": self.passages(source, chunking)}

    def _build_index(self, retriever: str, source: str, chunking: str, index: str) -> dict[str, Any]:
        return {"embeddings": self._embeddings(retriever, source, chunking)}

    def _embeddings(self, retriever: str, source: str, chunking: str) -> Artifact:
        names = {"retriever": retriever, "source": source, "chunking": chunking}
        return _made(self.paths.embeddings(**names), "embed_passages", **names)

    def _searched(self, retrieval: str, source: str) -> dict[str, Any]:
        """What a retrieval searches in a source: passages, a dense retriever's vectors, and the index over a corpus.

        A document's passages are few and are searched exactly, without an index.
        """
        entry = self.config.retrievals[retrieval]
        assert entry.retriever is not None
        assert entry.chunking is not None
        found: dict[str, Any] = {"passages": self.passages(source, entry.chunking)}
        searching = self.config.searching(entry.retriever)
        if self.config.retrievers[searching].kind != "dense":
            return found
        names = {"retriever": searching, "source": source, "chunking": entry.chunking}
        found["embeddings"] = self._embeddings(**names)
        if source in self.config.corpora:
            index = {**names, "index": str(entry.index)}
            found["index"] = _made(self.paths.index(**index), "build_index", **index)
        return found

    def _cache_neighbors(self, retrieval: str, dataset: str, split: str) -> dict[str, Any]:
        """Answers too, where the retriever looks for them."""
        source = self.config.dataset_source(dataset, retrieval, split)
        searching = self.config.searching(str(self.config.retrievals[retrieval].retriever))
        gold = self.config.retrievers[searching].kind == "gold"
        return {
            "examples": self.examples(dataset, split),
            "references": self.references(dataset, split) if gold else None,
            **self._searched(retrieval, source),
        }

    def _measure_retrieval(self, retrieval: str, dataset: str) -> dict[str, Any]:
        references = {"references": self.references(dataset, "test")}
        return self._cache_neighbors(retrieval, dataset, "test") | references

    def _cache_pretraining_neighbors(self, pretraining: str, chunk_length: str) -> dict[str, Any]:
        entry = self.config.pretrainings[pretraining]
        return {"tokenizer": self.tokenizer(entry.tokenizer), **self._text_search(entry)}

    def _cache_retrofitting_neighbors(self, retrofitting: str, model: str, chunk_length: str) -> dict[str, Any]:
        """Chunks are cut by the tokenizer of the GPT that is retrofitted."""
        return {"model": self.model(model), **self._text_search(self.config.retrofittings[retrofitting])}

    def _text_search(self, training: BaseTraining) -> dict[str, Any]:
        corpus = self.config.retrievals[str(training.retrieval)].corpus
        return {"raw": self._texts(training.corpora), **self._searched(str(training.retrieval), str(corpus))}

    # base models
    def _pretrain_model(self, model: str) -> dict[str, Any]:
        entry = self.config.models[model]
        name = str(entry.pretraining)
        training = self.config.pretrainings[name]
        found: dict[str, Any] = {
            "raw": self._texts(training.corpora),
            "tokenizer": self.tokenizer(training.tokenizer),
        }
        if not self._gets_passages(entry.family, training):
            return found
        size = self.config.sizes.get(entry.size)
        length = _chunk_length(training, 64 if size is None else size.chunk_length)
        names = {"pretraining": name, "chunk_length": length}
        cache = _made(self.paths.pretraining_neighbors(**names), "cache_pretraining_neighbors", **names)
        return {**found, "neighbors": cache, "passages": self._text_passages(training)}

    def _retrofit_model(self, model: str) -> dict[str, Any]:
        entry = self.config.models[model]
        name, source = str(entry.retrofitting), str(entry.retrofit_from)
        training = self.config.retrofittings[name]
        found: dict[str, Any] = {"raw": self._texts(training.corpora), "source": self.model(source)}
        if not self._gets_passages(entry.family, training):
            return found
        names = {
            "retrofitting": name,
            "model": source,
            "chunk_length": _chunk_length(training, training.chunk_length),
        }
        cache = _made(self.paths.retrofitting_neighbors(**names), "cache_retrofitting_neighbors", **names)
        return {**found, "neighbors": cache, "passages": self._text_passages(training)}

    def _gets_passages(self, family: str, training: BaseTraining) -> bool:
        retrieval = self.config.retrievals.get(training.retrieval or "")
        return retrieval is not None and retrieval.layout(family).needed > 0

    def _text_passages(self, training: BaseTraining) -> Artifact:
        """Passages whose rows a neighbor cache of text holds."""
        entry = self.config.retrievals[str(training.retrieval)]
        return self.passages(str(entry.corpus), str(entry.chunking))

    # cells
    def _reads(self, cell: Cell, split: str) -> dict[str, Any]:
        return {
            "model": self.model(cell.model),
            "examples": self.examples(cell.dataset, split),
            "neighbors": self.neighbors(cell.retrieval, cell.dataset, split),
        }

    def _finetune_cell(self, **names: str) -> dict[str, Any]:
        return self._reads(_cell_of(names), "train")

    def _predict_cell(self, **names: str) -> dict[str, Any]:
        cell = _cell_of(names)
        return {"adapter": self._trained(cell, "adapter"), **self._reads(cell, "test")}

    def _score_cell(self, **names: str) -> dict[str, Any]:
        cell = _cell_of(names)
        return {
            "trained": self._trained(cell, "train.json"),
            "predictions": self.cell(cell, "predict_cell", "predictions.jsonl"),
            "summary": self.cell(cell, "predict_cell", "predict.json"),
            "references": self.references(cell.dataset, "test"),
        }

    # report
    def _collect_answers(self) -> dict[str, Any]:
        """What all cells answered, and what their answers are held against."""
        cells = expand_grid(self.config)
        predictions = [self.cell(cell, "predict_cell", "predictions.jsonl") for cell in cells]
        return {"predictions": predictions, **self._asked()}

    def _write_report(self) -> dict[str, Any]:
        """The texts of questions, references and passages."""
        datasets = dict.fromkeys(cell.dataset for cell in expand_grid(self.config))
        return {"examples": [self.examples(name, "test") for name in datasets], **self._asked()}

    def _asked(self) -> dict[str, Any]:
        """References of all datasets' test questions, and their passages under each retrieval that cells use."""
        cells = expand_grid(self.config)
        caches = (self.neighbors(*pair, "test") for pair in dict.fromkeys((c.retrieval, c.dataset) for c in cells))
        return {
            "references": [self.references(name, "test") for name in dict.fromkeys(cell.dataset for cell in cells)],
            "neighbors": [cache for cache in caches if cache is not None],
        }

    def _trained(self, cell: Cell, file: str) -> Artifact | None:
        """What fine-tuning leaves; None for zero-shot."""
        return self.cell(cell, "finetune_cell", file) if self.config.methods[cell.method].trained else None


def _made(path: str, stage: str, **names: str) -> Artifact:
    return Artifact(path, stage, tuple(names.items()))


def _names_of(cell: Cell) -> dict[str, str]:
    return {name: str(value) for name, value in vars(cell).items()}


def _cell_of(names: Names) -> Cell:
    return Cell(**{**names, "seed": int(names["seed"])})  # type: ignore[arg-type]


def _chunk_length(training: BaseTraining, chunk_length: int) -> str:
    """0 where neighbors belong to whole documents, else the length of the chunks that have some."""
    return "0" if training.neighbors_per == "document" else str(chunk_length)
