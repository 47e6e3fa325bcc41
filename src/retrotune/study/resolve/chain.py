"""What the stages before the cells use."""

from pathlib import Path
from typing import Any

from retrotune.study.config import Config, CorpusEntry, DatasetEntry, PassageLayout, RetrievalEntry
from retrotune.study.outside import encoder_files, model_files, raw_digest
from retrotune.study.raw import corpus_files, raw_files
from retrotune.study.resolve.registry import Wildcards, resolver
from retrotune.study.stages import (
    BuildIndexParams,
    CacheNeighborsParams,
    CacheTextNeighborsParams,
    ChunkCorpusParams,
    ChunkParams,
    ConvertParams,
    DownloadSourceParams,
    EmbedParams,
    FetchParams,
    MeasureRetrievalParams,
    PrepareTestParams,
    PrepareTrainParams,
    PretrainParams,
    RetrofitParams,
    StageParams,
    TrainTokenizerParams,
    WriteWorldParams,
)


# raw files, passages ------------------------------------------------------------------------------------------------
@resolver("write_world")
def _world(config: Config, wildcards: Wildcards) -> StageParams:
    assert config.world is not None
    return WriteWorldParams(world=config.world)


@resolver("download_source")
def _download(config: Config, wildcards: Wildcards) -> StageParams:
    """Files go where the entry that reads them looks for them."""
    entries: list[DatasetEntry | CorpusEntry] = [*config.datasets.values(), *config.corpora.values()]
    path = Path(next(entry.path for entry in entries if entry.download == wildcards["download"]))
    folder = path.parent if "." in path.name else path
    return DownloadSourceParams(source=wildcards["download"], folder=str(folder))


def _split(config: Config, wildcards: Wildcards, split: str) -> tuple[DatasetEntry, dict[str, Any]]:
    entry = config.datasets[wildcards["dataset"]]
    named = {name: getattr(entry, name) for name in ("reader", "layout", "path", "skip_bad_records")}
    raw = raw_digest(config, lambda: raw_files(entry, config.raw, split))
    return entry, {**named, "reader_version": entry.record.version, "raw": raw}


@resolver("prepare_train")
def _prepare_train(config: Config, wildcards: Wildcards) -> StageParams:
    entry, values = _split(config, wildcards, "train")
    return PrepareTrainParams(**values, limit=entry.max_train)


@resolver("prepare_test")
def _prepare_test(config: Config, wildcards: Wildcards) -> StageParams:
    entry, values = _split(config, wildcards, "test")
    return PrepareTestParams(**values, limit=entry.max_test)


def _cut(config: Config, chunking: str) -> dict[str, int | None]:
    entry = config.chunkings[chunking]
    return {"passage_words": entry.passage_words, "passage_tokens": entry.passage_tokens}


@resolver("chunk_corpus")
def _chunk_corpus(config: Config, wildcards: Wildcards) -> StageParams:
    name = wildcards["corpus"]
    cut, raw = _cut(config, wildcards["chunking"]), _corpora(config, (name,))["raw"]
    return ChunkCorpusParams(corpus=config.corpora[name], raw=raw, **cut)


@resolver("chunk_documents")
def _chunk_documents(config: Config, wildcards: Wildcards) -> StageParams:
    return ChunkParams(**_cut(config, wildcards["chunking"]))


def _corpora(config: Config, names: tuple[str, ...]) -> dict[str, Any]:
    """Corpora that a stage reads, and the digest of their raw files."""
    corpora = {name: config.corpora[name] for name in names}
    found = (file for entry in corpora.values() for file in corpus_files(entry, config.raw))
    return {"corpora": corpora, "raw": raw_digest(config, lambda: found)}


@resolver("train_tokenizer")
def _tokenizer(config: Config, wildcards: Wildcards) -> StageParams:
    entry = config.tokenizers[wildcards["tokenizer"]]
    return TrainTokenizerParams(**_corpora(config, entry.corpora), vocab_size=entry.vocab_size)


# retrieval ----------------------------------------------------------------------------------------------------------
@resolver("embed_passages")
def _embed(config: Config, wildcards: Wildcards) -> StageParams:
    entry = config.retrievers[wildcards["retriever"]]
    encoder = entry.for_passages()
    return EmbedParams(retriever=encoder, files=encoder_files(encoder.query_model))


@resolver("build_index")
def _index(config: Config, wildcards: Wildcards) -> StageParams:
    entry = config.indexes[wildcards["index"]]
    filled = {"preset": None, "factory": entry.template, "rerank": entry.candidates}
    return BuildIndexParams(index=entry.model_copy(update=filled))


def _searching(config: Config, retrieval: RetrievalEntry) -> dict[str, Any]:
    """The retriever of a retrieval as a search uses it, and the files of its encoder."""
    assert retrieval.retriever is not None
    retriever = config.searches_with(retrieval.retriever)
    searching = retriever.searching
    files = encoder_files(searching.query_model) if searching.kind == "dense" else {}
    return {"retriever": retriever, "files": files}


@resolver("cache_neighbors")
def _neighbors(config: Config, wildcards: Wildcards) -> StageParams:
    entry = config.retrievals[wildcards["retrieval"]]
    return CacheNeighborsParams(
        **_searching(config, entry),
        top_k=entry.top_k,
        continuation=entry.continuation,
        own_documents=not config.is_open_domain(wildcards["dataset"]),
    )


@resolver("cache_pretraining_neighbors")
def _text_neighbors(config: Config, wildcards: Wildcards) -> StageParams:
    """Of the text of a pretraining or, where the wildcards name one, of a retrofitting."""
    if "retrofitting" in wildcards:
        recipe: Any = config.retrofittings[wildcards["retrofitting"]]
    else:
        recipe = config.pretrainings[wildcards["pretraining"]]
    entry = config.retrievals[recipe.retrieval]
    assert entry.corpus is not None
    return CacheTextNeighborsParams(
        **_searching(config, entry),
        top_k=entry.top_k,
        continuation=entry.continuation,
        source=entry.corpus,
        **_corpora(config, recipe.corpora),
    )


@resolver("measure_retrieval")
def _measure(config: Config, wildcards: Wildcards) -> StageParams:
    """A degraded retriever is measured on the passages that models get: of more, others are replaced."""
    entry, depth = config.retrievals[wildcards["retrieval"]], config.evaluation.retrieval_depth
    searching = _searching(config, entry)
    return MeasureRetrievalParams(
        **searching,
        depth=min(depth, entry.top_k) if searching["retriever"].kind == "degraded" else depth,
        own_documents=not config.is_open_domain(wildcards["dataset"]),
    )


# base models --------------------------------------------------------------------------------------------------------
def _layout(config: Config, retrieval: str | None, family: str) -> PassageLayout | None:
    return None if retrieval is None else config.retrievals[retrieval].layout(family)


@resolver("pretrain_model")
def _pretrain(config: Config, wildcards: Wildcards) -> StageParams:
    entry = config.models[wildcards["model"]]
    assert entry.pretraining is not None
    pretraining = config.pretrainings[entry.pretraining]
    return PretrainParams(
        family=entry.family,
        size=config.sizes.get(entry.size, entry.size),
        recipe=pretraining.recipe,
        layout=_layout(config, pretraining.retrieval, entry.family),
        **_corpora(config, pretraining.corpora),
    )


@resolver("retrofit_model")
def _retrofit(config: Config, wildcards: Wildcards) -> StageParams:
    entry = config.models[wildcards["model"]]
    assert entry.retrofitting is not None
    assert entry.retrofit_from is not None
    retrofitting = config.retrofittings[entry.retrofitting]
    return RetrofitParams(
        family=entry.family,
        source=entry.retrofit_from,
        recipe=retrofitting.recipe,
        layout=_layout(config, retrofitting.retrieval, entry.family),
        **_corpora(config, retrofitting.corpora),
    )


@resolver("fetch_model")
def _fetch(config: Config, wildcards: Wildcards) -> StageParams:
    entry = config.models[wildcards["model"]]
    named = {name: getattr(entry, name) for name in ("hub", "path", "trust_remote_code")}
    return FetchParams(**named, files=model_files(config, wildcards["model"]))


@resolver("convert_model")
def _convert(config: Config, wildcards: Wildcards) -> StageParams:
    entry = config.models[wildcards["model"]]
    assert entry.checkpoint is not None
    files = model_files(config, wildcards["model"])
    return ConvertParams(family=entry.family, **dict(entry.checkpoint), files=files)
