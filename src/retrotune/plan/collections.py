"""What is planned: collections of passages with their encoder, indexes and questions, of a study or published."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from retrotune.errors import ConfigError, DataError, RetrotuneError
from retrotune.retrieval.vectors.declared import FALLBACK
from retrotune.study.artifacts import Artifacts
from retrotune.study.config import ChunkingEntry, Config, CorpusEntry, IndexEntry, RetrieverEntry
from retrotune.study.paths import Paths
from retrotune.study.places import locate_model
from retrotune.study.raw import split_files

BYTES_PER_WORD = 6.0
"""Of English text, the blank included."""
TOKENS_PER_WORD = 1.35
"""Word pieces of BERT's vocabulary."""
RAW_BYTES_PER_PASSAGE = {True: 230.0, False: 650.0}
"""Of psgs_w100.tsv per passage: gzipped (4.69 GB for 21,015,324) or not."""
GZIP_SHARE = 0.36


@dataclass(frozen=True)
class Shape:
    """A BERT-like encoder: layers, width of its vectors and of its feed-forward layers, where both are from."""

    layers: int
    width: int
    inner: int
    source: str

    def operations_per_token(self, tokens: float) -> float:
        """Multiply-adds times two for each token of a text of so many."""
        return self.layers * (8 * self.width**2 + 4 * self.width * self.inner + 4 * tokens * self.width)

    @property
    def parameters(self) -> float:
        """Weights, with a vocabulary of 30,522 word pieces."""
        return self.layers * (4 * self.width**2 + 2 * self.width * self.inner) + 31_034 * self.width


BASE = Shape(12, 768, 3072, "BERT-base")
MINILM = Shape(6, 384, 1536, "MiniLM-L6")


@dataclass(frozen=True)
class Collection:
    """Passages searched by one retriever of a `kind`; `batch_tokens` counts all batches that are worked on at a time.

    `queries` search through each of `indexes` or, where there is none, their own document. Only dense retrievers have a
    `shape` and indexes.
    """

    name: str
    passages: int
    counted: str
    tokens: float
    shape: Shape | None
    indexes: dict[str, IndexEntry] = field(default_factory=dict)
    queries: int = 0
    top_k: int = 5
    block_passages: int = 50_000
    batch_tokens: int = 4096
    texts_in_cache: bool = True
    kind: str = "dense"

    @property
    def words(self) -> float:
        """Words of a passage."""
        return self.tokens / TOKENS_PER_WORD

    @property
    def text_bytes(self) -> float:
        """Bytes of a passage's text."""
        return self.words * BYTES_PER_WORD


WIKIPEDIA = Collection(
    "Wikipedia (DPR), Dragon+",
    21_015_324,
    "psgs_w100.tsv, arXiv 2004.04906",
    100 * TOKENS_PER_WORD,
    BASE,
    {name: IndexEntry(preset=name) for name in ("exact", "ivf-flat", "ivf-pq", "hnsw")},
    queries=79_168 + 8_757 + 3_610 + 78_785 + 8_837 + 11_313,  # NQ-open and TriviaQA: train, dev, test
)
PRETRAINING = Collection(
    "pretraining database, 64-token chunks",
    19_000_000_000,
    "arXiv 2310.07713; vectors taken as 768 wide, FAISS' least training sample",
    64,
    BASE,
    {
        "exact": IndexEntry(preset="exact"),
        "opq-ivf-pq": IndexEntry(
            factory="OPQ64_128,IVF4194304_HNSW32,PQ64", training_vectors=39 * 4_194_304, nprobe=4096
        ),
        "in shards": IndexEntry(
            factory="OPQ64_128,IVF262144_HNSW32,PQ64",
            training_vectors=39 * 262_144,
            nprobe=1024,
            shard_vectors=500_000_000,
        ),
    },
    queries=19_000_000_000,  # each chunk asks for its neighbors
    top_k=2,
    texts_in_cache=False,
)


def study_collections(config: Config, passages: int | None = None) -> tuple[list[Collection], list[str]]:
    """Every (retriever, source, chunking) that the study's cells and base models search.

    A degraded retriever searches with the one that it is made of.
    Passages are counted from the parquet file if it is made, taken from `passages` (corpora only), else estimated from
    the raw files' size; an absent Wikipedia is taken for the official one. With them come lines that say which sources
    could not be counted, and why.
    """
    needs: dict[tuple[str, str, str], dict[str, set[str]]] = {}
    asked: dict[tuple[str, str, str], set[tuple[str, str | None]]] = {}
    depth: dict[tuple[str, str, str], int] = {}
    for cache, name, source in Artifacts(config).searches():
        retrieval, names = config.retrievals[name], cache.wildcards
        if retrieval.retriever is None or retrieval.chunking is None:
            continue
        retriever = config.searching(retrieval.retriever)
        key = (retriever, source, retrieval.chunking)
        indexes = needs.setdefault(key, {"indexes": set()})["indexes"]
        dense = config.retrievers[retriever].kind == "dense"
        if dense and source in config.corpora and retrieval.index is not None:
            indexes.add(retrieval.index)
        asked.setdefault(key, set()).add((names.get("dataset", name), names.get("split")))
        depth[key] = max(depth.get(key, 0), retrieval.top_k)
    found: list[Collection] = []
    notes: list[str] = []
    for (retriever, source, chunking), sets in needs.items():
        key = (retriever, source, chunking)
        words = words_of(config.chunkings[chunking])
        try:
            count, counted = count_passages(config, source, chunking, passages)
        except ConfigError as error:
            notes.append(f"{source}/{chunking}, {retriever}: not counted ({error})")
            continue
        entry = config.retrievers[retriever]
        questions = sum(_questions(config, dataset, split) for dataset, split in asked[key] if split is not None)
        pretraining = count if any(split is None for _, split in asked[key]) else 0
        found.append(
            Collection(
                f"{source}/{chunking}, {retriever}",
                count,
                counted,
                min(entry.max_length or FALLBACK["max_length"], words * TOKENS_PER_WORD),
                shape_of(entry) if entry.kind == "dense" else None,
                {name: config.indexes[name] for name in sorted(sets["indexes"])},
                questions + pretraining,
                depth[key],
                entry.block_passages,
                entry.batch_tokens or Collection.batch_tokens,
                kind=entry.kind,
            )
        )
    return found, notes


def shape_of(entry: RetrieverEntry) -> Shape:
    """The passage encoder's shape, from its folder if there is one, else BERT-base's."""
    name = entry.passage_model or entry.query_model or ""
    try:
        values = json.loads((Path(locate_model(name)) / "config.json").read_text(encoding="utf-8"))
        return Shape(values["num_hidden_layers"], values["hidden_size"], values["intermediate_size"], name)
    except (RetrotuneError, OSError, KeyError, ValueError):
        return BASE


def words_of(entry: ChunkingEntry) -> float:
    """Words of a whole passage."""
    return entry.passage_words or (entry.passage_tokens or 0) / TOKENS_PER_WORD


def count_passages(config: Config, source: str, chunking: str, given: int | None = None) -> tuple[int, str]:
    """(number of passages of a source, what it rests on); `ConfigError` if there is nothing to count."""
    made = Path(Paths.of(config).passages(source, chunking))
    if made.is_file():
        import pyarrow.parquet as pq

        return pq.ParquetFile(made).metadata.num_rows, str(made)
    if given is not None and source in config.corpora:
        return given, "given"
    words = words_of(config.chunkings[chunking])
    if config.world is not None and config.data_root is None and not Path(config.raw).exists():
        raise ConfigError("write_world makes its raw files; run it first or give their number: --passages N")
    if source in config.corpora:
        return _corpus_passages(config.corpora[source], config.raw, words)
    dataset, split = source.rsplit("/", 1)
    documents = Path(Paths.of(config).documents(dataset, split))
    if documents.is_file():
        import pyarrow.parquet as pq

        texts = pq.ParquetFile(documents).metadata
        size = sum(texts.row_group(group).total_byte_size for group in range(texts.num_row_groups))
        return max(1, round(size / BYTES_PER_WORD / words)), f"size of {documents}"
    entry = config.datasets[dataset]
    found = split_files(entry, config.raw, split)
    if not found:
        raise ConfigError(f"{Path(config.raw) / entry.path}: no raw files of {source}; make them or set data_root")
    files = [file for place in found for file in (place.rglob("*") if place.is_dir() else [place]) if file.is_file()]
    return max(1, round(_text_bytes(files) / BYTES_PER_WORD / words)), f"size of {', '.join(map(str, found))}"


def _corpus_passages(entry: CorpusEntry, root: str, words: float) -> tuple[int, str]:
    from retrotune.study.raw import find_corpus_files

    try:
        files = find_corpus_files(entry, root)
    except DataError as error:
        if entry.reader == "dpr_passages" and not Path(root).exists():
            return WIKIPEDIA.passages, "official psgs_w100.tsv.gz, not there yet"
        raise ConfigError(f"{error}; or give their number: --passages N") from error
    where = f"size of {Path(root) / entry.path}"
    if entry.reader == "dpr_passages":
        return max(1, round(sum(f.stat().st_size / RAW_BYTES_PER_PASSAGE[f.suffix == ".gz"] for f in files))), where
    return max(1, math.ceil(_text_bytes(files) / BYTES_PER_WORD / words)), where


def _text_bytes(files: Iterable[Path]) -> float:
    return sum(file.stat().st_size / (GZIP_SHARE if file.suffix == ".gz" else 1) for file in files)


def _questions(config: Config, dataset: str, split: str) -> int:
    """Questions of a split, from its file if it is made, else from the configuration's limit."""
    entry, made = config.datasets[dataset], Path(Paths.of(config).examples(dataset, split))
    if made.is_file():
        import pyarrow.parquet as pq

        return int(pq.ParquetFile(made).metadata.num_rows)
    return (entry.max_train if split == "train" else entry.max_test) or 0
