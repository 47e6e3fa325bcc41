"""Neighbor caches of the text that models are pretrained on: passages of each document or chunk, as row numbers.

`{cache}.json` is the manifest, written last; the folder `{cache}/` holds the blocks of `cache.py`. A cache of billions
of chunks cannot hold their passages' texts: these are looked up when the cache is loaded.
"""

import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrotune.data.corpora.records import BadRecords
from retrotune.data.corpora.tokens import chunk_spans, open_tokenizer
from retrotune.data.datasets.base import Passage
from retrotune.errors import RetrievalError
from retrotune.preparing.documents import Document, count_bad, read_corpus
from retrotune.retrieval.blocks import Record
from retrotune.retrieval.caches.questions import check_enough
from retrotune.retrieval.caches.results import (
    Keys,
    Search,
    from_relative,
    kept_or_found,
    read_blocks,
    read_manifest,
    relative,
    summary,
)
from retrotune.retrieval.passages import PassageTable
from retrotune.retrieval.search.finding import Asked
from retrotune.retrieval.search.hits import Hits
from retrotune.retrieval.search.opening import open_finder
from retrotune.runtime.files import sha256, write_json
from retrotune.runtime.log import Progress, logger
from retrotune.study.config import CorpusEntry
from retrotune.study.stages import CacheTextNeighborsParams

DOCUMENTS_AT_ONCE = 1000
BLOCK_TEXTS = 50_000
"""More than of questions: 19 billion chunks, those of the pretraining papers, are then 380,000 blocks."""
Text = tuple[str, int, str]
"""(document id as `corpus_documents` names it, chunk number, text to search with)."""


def cache_pretraining_neighbors(
    params: CacheTextNeighborsParams,
    root: str | Path,
    passages: str | Path,
    tokenizer_json: str | Path,
    chunk_length: int,
    out: str | Path,
    embeddings: str | Path | None = None,
    index: str | Path | None = None,
    block_texts: int = BLOCK_TEXTS,
) -> None:
    """Find the best `top_k` passages of other documents for all text that models are pretrained on.

    The query is the text of each chunk of `chunk_length` tokens, cut without special tokens as training cuts it, or the
    whole document if `chunk_length` is 0 (its chunk number is then 0). Passages of the very document that asks are left
    out (RETRO, arXiv 2112.04426, section 2.1). Text that has fewer than `top_k` passages of other documents gets those
    there are, which is counted and logged. With `continuation` each passage is given with the next one of its document.
    Gold has no answers to look for here.

    `out` is the manifest; blocks of `block_texts` texts that an earlier run left are kept if they are whole and made
    from the same. Raises `RetrievalError` as `cache_neighbors` does.
    """
    corpora, source, top_k = params.corpora, params.source, params.top_k
    retriever = params.retriever
    table = PassageTable(passages)
    check_enough(top_k, table)
    search = Search(retriever, top_k, passages, embeddings, index)
    digest = text_search_digest(search, table, source)
    finder = functools.cache(lambda: open_finder(retriever, table, embeddings, index))

    def find(texts: Sequence[Text]) -> Hits:
        return finder().find(texts_asked(table, texts, source), top_k)

    folder, records, start = Path(out).with_suffix(""), list[Record](), 0
    bad = count_bad(corpora)
    with Progress("texts searched") as shown:
        for texts in batches(pretraining_texts(corpora, root, tokenizer_json, chunk_length, bad), block_texts):
            keys = Keys.of((doc_id, chunk) for doc_id, chunk, _ in texts)
            made_from = texts_digest(digest, texts)
            found = functools.partial(find, texts)
            record, kept = kept_or_found(folder, start, len(texts), made_from, found, keys)
            records.append(record)
            shown.advance(len(texts), kept)
            start += len(texts)
    numbers = summary(folder, records, top_k)
    request = {
        **search.request(out),
        "corpora": {name: entry.given() for name, entry in corpora.items()},
        "root": relative(root, out),
        "source": source,
        "tokenizer": relative(tokenizer_json, out) if chunk_length else None,
        "chunk_length": chunk_length,
    }
    origin = {
        "params": params.recorded(),
        "chunk_length": chunk_length,
        "tokenizer_sha256": sha256(tokenizer_json) if chunk_length else None,
        "bad_records": {name: records.summary() for name, records in bad.items()},
        "continuation": params.continuation,
        "passages": relative(passages, out),
        "passages_sha256": table.sha256,
    }
    write_json(out, {**origin, **numbers, "request": request})
    logger.info("%s: %d passages for %d texts", out, numbers["hits"], start)


def texts_asked(table: PassageTable, texts: Sequence[Text], source: str) -> Asked:
    """A block of texts as a search is asked: of passages of other documents than the text's own."""
    _, codes = table.documents
    prefix = f"{source}/"
    own = [codes.get(doc_id.removeprefix(prefix), -1) if doc_id.startswith(prefix) else -1 for doc_id, _, _ in texts]
    return Asked(
        table,
        [f"{doc_id}#{chunk}" for doc_id, chunk, _ in texts],
        [text for _, _, text in texts],
        documents=np.array(own, dtype=np.int64),
    )


def text_search_digest(search: Search, table: PassageTable, source: str) -> str:
    """Digest of all that determines the hits of pretraining text, beside the texts."""
    return search.digest(table, CacheTextNeighborsParams.version, source=source)


def texts_digest(search_digest: str, texts: Sequence[Text]) -> str:
    """Digest of what a block of hits is made from."""
    found = hashlib.sha256(search_digest.encode())
    for text in texts:
        found.update(repr(text).encode())
    return found.hexdigest()


def load_pretraining_neighbors(path: str | Path) -> dict[tuple[str, int], list[Passage]]:
    """Passages of each (document id, chunk number), best first; text without any passage has no entry.

    Of the passages' texts memory holds those that are neighbors, once each. Raises `RetrievalError` with the remedy if
    the cache or its passages are missing, damaged, or do not belong together.
    """
    remedy = f"delete {path} and run again, which makes only what is broken"
    if not Path(path).is_file():
        raise RetrievalError(f"{path}: no such neighbor cache; run cache_pretraining_neighbors first")
    manifest = read_manifest(path, remedy)
    table = PassageTable(from_relative(manifest["passages"], path))
    if table.sha256 != manifest["passages_sha256"]:
        raise RetrievalError(f"{path}: its passages are not those of {table.path} as it is now; {remedy}")
    blocks = [arrays for _, arrays in read_blocks(Path(path).with_suffix(""), manifest["blocks"], remedy)]
    used = np.unique(np.concatenate([arrays["rows"].ravel() for arrays in blocks])) if blocks else np.empty(0, int)
    if len(used) and not -1 <= used[0] <= used[-1] < table.rows:
        raise RetrievalError(f"{path}: names passage rows beyond the {table.rows} of {table.path}; {remedy}")
    used = used[used >= 0]
    taken = table.given(used, manifest["continuation"])
    names, titles, texts = (taken[name].to_pylist() for name in ("passage_id", "title", "text"))
    places = {row: place for place, row in enumerate(used.tolist())}
    found: dict[tuple[str, int], list[Passage]] = {}
    for arrays in blocks:
        for key, rows, scores in zip(
            read_keys(path, arrays).pairs(), arrays["rows"].tolist(), arrays["scores"].tolist(), strict=True
        ):
            ranked = [
                Passage(names[place], titles[place], texts[place], score)
                for row, score in zip(rows, scores, strict=True)
                if (place := places.get(row)) is not None
            ]
            if ranked:
                found[key] = ranked
    return found


def check_tokenizer(path: str | Path, tokenizer_json: str | Path) -> None:
    """Raise `RetrievalError` if a cache of pretraining neighbors belongs to the chunks of another tokenizer."""
    remedy = f"delete {path} and run cache_retrofitting_neighbors again"
    found = read_manifest(path, remedy).get("tokenizer_sha256")
    if found is not None and found != sha256(tokenizer_json):
        raise RetrievalError(f"{path}: found for chunks that another tokenizer than {tokenizer_json} cuts; {remedy}")


def corpus_documents(
    corpora: Mapping[str, CorpusEntry], root: str | Path, bad: Mapping[str, BadRecords] | None = None
) -> Iterator[Document]:
    """Documents of several corpora, their ids made unique by the corpus' name: `{corpus}/{doc_id}`.

    `bad` are the corpora's counters of bad records, as `count_bad` makes them, for the caller's manifest.
    """
    bad = bad or count_bad(corpora)
    for name, entry in corpora.items():
        for document in read_corpus(entry, root, bad[name]):
            yield Document(f"{name}/{document.doc_id}", document.title, document.text)


def pretraining_texts(
    corpora: Mapping[str, CorpusEntry],
    root: str | Path,
    tokenizer_json: str | Path,
    chunk_length: int,
    bad: Mapping[str, BadRecords] | None = None,
) -> Iterator[Text]:
    """All pretraining text in order: documents, or their chunks of `chunk_length` tokens if that is not 0."""
    if chunk_length and not Path(tokenizer_json).is_file():
        raise RetrievalError(
            f"{tokenizer_json}: no such tokenizer; neighbors per chunk need one in tokenizers' JSON format: convert "
            "the model again with a tokenizer, or set neighbors_per: document"
        )
    tokenizer = open_tokenizer(tokenizer_json) if chunk_length else None
    for documents in batches(corpus_documents(corpora, root, bad), DOCUMENTS_AT_ONCE):
        if tokenizer is None:
            yield from ((document.doc_id, 0, document.text) for document in documents)
            continue
        texts = [document.text for document in documents]
        for document, spans in zip(documents, chunk_spans(tokenizer, texts, chunk_length), strict=True):
            yield from ((document.doc_id, chunk, document.text[slice(*span)]) for chunk, span in enumerate(spans))


def batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` items, in order; only the last may be shorter."""
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def read_keys(path: str | Path, arrays: Mapping[str, Any]) -> Keys:
    """The texts that a block's rows belong to; `RetrievalError` if it does not say so for all of them."""
    remedy = f"delete {path} and its folder of blocks, and run again"
    try:
        keys = Keys.read(arrays)
    except (KeyError, ValueError) as error:
        raise RetrievalError(
            f"{path}: a block does not say which text its rows belong to ({error}); {remedy}"
        ) from error
    if sum(keys.counts) != len(arrays["rows"]):
        raise RetrievalError(
            f"{path}: a block has {len(arrays['rows'])} texts, but keys of {sum(keys.counts)}; {remedy}"
        )
    return keys
