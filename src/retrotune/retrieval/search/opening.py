"""From a retriever's entry to what finds passages."""

from pathlib import Path

from retrotune.errors import RetrievalError
from retrotune.retrieval.passages import PassageTable
from retrotune.retrieval.search.controls import Degraded, Gold, Random
from retrotune.retrieval.search.finding import Finder, Ranked
from retrotune.retrieval.search.searchers import DenseSearcher
from retrotune.retrieval.search.sparse import SparseSearcher
from retrotune.study.config import RetrieverEntry


def open_finder(
    retriever: RetrieverEntry,
    table: PassageTable,
    embeddings: str | Path | None = None,
    index: str | Path | None = None,
) -> Finder:
    """What finds passages of `table` as the entry says; a degraded one holds the entry that it starts from.

    Raises `RetrievalError` if a dense retriever lacks vectors, or vectors and index do not belong to these passages.
    """
    match retriever.kind:
        case "random":
            return Random(retriever.seed)
        case "bm25":
            return Ranked(SparseSearcher(table))
        case "gold":
            return Gold(SparseSearcher(table))
        case "degraded":
            base = open_finder(retriever.starts_from, table, embeddings, index)
            return Degraded(base, retriever.share, retriever.seed)
        case "dense":
            return Ranked(open_dense(retriever, table, embeddings, index))


def open_dense(
    retriever: RetrieverEntry, table: PassageTable, embeddings: str | Path | None, index: str | Path | None
) -> DenseSearcher:
    """The searcher of an encoder; raises as `open_finder` does."""
    # torch, which BM25 and the controls need not
    from retrotune.retrieval.search.index import open_index
    from retrotune.retrieval.vectors.embeddings import Embeddings
    from retrotune.retrieval.vectors.encoders import fingerprint, load_encoder

    if embeddings is None:
        raise RetrievalError("a dense retriever needs the embeddings of its passages: run embed_passages")
    vectors = Embeddings(embeddings)
    for key, value in (("passages_sha256", table.sha256), ("retriever", fingerprint(retriever))):
        if vectors.manifest[key] != value:
            what = table.path if key == "passages_sha256" else f"retriever model {retriever.query_model!r}"
            raise RetrievalError(f"{embeddings}: not made from {what} as it is now; delete it and run embed_passages")
    opened = open_index(index, vectors) if index is not None else None
    return DenseSearcher(load_encoder(retriever, "query"), vectors, opened)
