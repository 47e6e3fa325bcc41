"""From a configuration to what each stage uses: one function per stage, called with the wildcards of its rule.

Values are resolved here: a preset becomes the keys that it fills, a prompt's name its text, a retrieval the layout of
the cell's family, a method's overrides the recipe that trains it.
"""

from collections.abc import Callable, Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any, TypeVar

from retrotune.methods import num_virtual_tokens
from retrotune.study.artifacts import Artifacts
from retrotune.study.cells import Cell, expand_grid
from retrotune.study.config import (
    NO_RETRIEVER,
    Config,
    CorpusEntry,
    DatasetEntry,
    PassageLayout,
    RetrievalEntry,
    read_claims,
)
from retrotune.study.outside import encoder_files, model_files, raw_digest
from retrotune.study.raw import corpus_files, raw_files
from retrotune.study.reporting import beside, table_names
from retrotune.study.stages import (
    STAGES,
    BaseUse,
    BuildIndexParams,
    CacheNeighborsParams,
    CacheTextNeighborsParams,
    ChunkCorpusParams,
    ChunkParams,
    ClaimTestParams,
    CollectParams,
    ConvertParams,
    DownloadSourceParams,
    EmbedParams,
    FetchParams,
    FinetuneParams,
    MakeTablesParams,
    MeasureRetrievalParams,
    MethodLabels,
    ModelLabels,
    PredictParams,
    PrepareTestParams,
    PrepareTrainParams,
    PretrainParams,
    Prompting,
    ReportRetrievalParams,
    RetrofitParams,
    ScoreParams,
    StageParams,
    TrainTokenizerParams,
    WriteWorldParams,
)

RERUNS_NOTHING: dict[str, str] = {
    "study": "names the folder of results: another study is made from nothing",
    "results_dir": "a place: what is not there is made",
    "resources_dir": "a place: what is not there is made",
    "rule_resources": "what jobs ask of a cluster changes no result",
    "models.resources": "what jobs ask of a cluster changes no result but for rounding",
    "save_every": "a resumed training ends with the same bits",
    "grid": "says which cells there are; their collection runs again",
    "select": "says which cells there are; their collection runs again",
}
"""Fields that no stage of data, retrieval, models or cells uses, and why."""

Wildcards = Mapping[str, str]
Resolver = Callable[[Config, Wildcards], StageParams]
R = TypeVar("R", bound=Resolver)
_RESOLVERS: dict[str, Resolver] = {}


def resolve(config: Config, stage: str, wildcards: Wildcards) -> StageParams:
    """What a stage uses of a study, for the job with these wildcards; stages without an entry here use nothing."""
    return _RESOLVERS[stage](config, wildcards) if stage in _RESOLVERS else STAGES[stage]()


def cell_stages(config: Config, cell: Cell) -> dict[str, StageParams]:
    """What each stage of a cell uses, in their order."""
    names = {**vars(cell), "seed": str(cell.seed)}
    return {stage: resolve(config, stage, names) for stage in Artifacts(config).cell_stages(cell)}


def _resolver(stage: str) -> Callable[[R], R]:
    def register(function: R) -> R:
        _RESOLVERS[stage] = function
        return function

    return register


# raw files, passages ------------------------------------------------------------------------------------------------
@_resolver("write_world")
def _world(config: Config, wildcards: Wildcards) -> StageParams:
    assert config.world is not None
    return WriteWorldParams(world=config.world)


@_resolver("download_source")
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


@_resolver("prepare_train")
def _prepare_train(config: Config, wildcards: Wildcards) -> StageParams:
    entry, values = _split(config, wildcards, "train")
    return PrepareTrainParams(**values, limit=entry.max_train)


@_resolver("prepare_test")
def _prepare_test(config: Config, wildcards: Wildcards) -> StageParams:
    entry, values = _split(config, wildcards, "test")
    return PrepareTestParams(**values, limit=entry.max_test)


def _cut(config: Config, chunking: str) -> dict[str, int | None]:
    entry = config.chunkings[chunking]
    return {"passage_words": entry.passage_words, "passage_tokens": entry.passage_tokens}


@_resolver("chunk_corpus")
def _chunk_corpus(config: Config, wildcards: Wildcards) -> StageParams:
    name = wildcards["corpus"]
    cut, raw = _cut(config, wildcards["chunking"]), _corpora(config, (name,))["raw"]
    return ChunkCorpusParams(corpus=config.corpora[name], raw=raw, **cut)


@_resolver("chunk_documents")
def _chunk_documents(config: Config, wildcards: Wildcards) -> StageParams:
    return ChunkParams(**_cut(config, wildcards["chunking"]))


def _corpora(config: Config, names: tuple[str, ...]) -> dict[str, Any]:
    """Corpora that a stage reads, and the digest of their raw files."""
    corpora = {name: config.corpora[name] for name in names}
    found = (file for entry in corpora.values() for file in corpus_files(entry, config.raw))
    return {"corpora": corpora, "raw": raw_digest(config, lambda: found)}


@_resolver("train_tokenizer")
def _tokenizer(config: Config, wildcards: Wildcards) -> StageParams:
    entry = config.tokenizers[wildcards["tokenizer"]]
    return TrainTokenizerParams(**_corpora(config, entry.corpora), vocab_size=entry.vocab_size)


# retrieval ----------------------------------------------------------------------------------------------------------
@_resolver("embed_passages")
def _embed(config: Config, wildcards: Wildcards) -> StageParams:
    entry = config.retrievers[wildcards["retriever"]]
    encoder = entry.for_passages()
    return EmbedParams(retriever=encoder, files=encoder_files(encoder.query_model))


@_resolver("build_index")
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


@_resolver("cache_neighbors")
def _neighbors(config: Config, wildcards: Wildcards) -> StageParams:
    entry = config.retrievals[wildcards["retrieval"]]
    return CacheNeighborsParams(
        **_searching(config, entry),
        top_k=entry.top_k,
        continuation=entry.continuation,
        own_documents=not config.is_open_domain(wildcards["dataset"]),
    )


@_resolver("cache_pretraining_neighbors")
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


@_resolver("measure_retrieval")
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


@_resolver("pretrain_model")
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


@_resolver("retrofit_model")
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


@_resolver("fetch_model")
def _fetch(config: Config, wildcards: Wildcards) -> StageParams:
    entry = config.models[wildcards["model"]]
    named = {name: getattr(entry, name) for name in ("hub", "path", "trust_remote_code")}
    return FetchParams(**named, files=model_files(config, wildcards["model"]))


@_resolver("convert_model")
def _convert(config: Config, wildcards: Wildcards) -> StageParams:
    entry = config.models[wildcards["model"]]
    assert entry.checkpoint is not None
    files = model_files(config, wildcards["model"])
    return ConvertParams(family=entry.family, **dict(entry.checkpoint), files=files)


# cells --------------------------------------------------------------------------------------------------------------
def _prompting(config: Config, wildcards: Wildcards) -> Prompting:
    model, dataset = config.models[wildcards["model"]], config.datasets[wildcards["dataset"]]
    retrieval, method = config.retrievals[wildcards["retrieval"]], config.methods[wildcards["method"]]
    return Prompting(
        family=model.family,
        template=dataset.record.prompt_of(dataset.prompt or ("instruct" if model.instruct else "base")),
        layout=retrieval.layout(model.family),
        max_length=config.max_length,
        max_new_tokens=dataset.max_new_tokens or dataset.record.max_new_tokens,
        virtual_tokens=num_virtual_tokens(method),
        may_lack_passages=not dataset.record.open_domain or _is_gold(config, retrieval),
    )


def _is_gold(config: Config, retrieval: RetrievalEntry) -> bool:
    return retrieval.retriever is not None and config.retrievers[config.searching(retrieval.retriever)].kind == "gold"


def _base_use(config: Config, wildcards: Wildcards) -> BaseUse:
    model = config.models[wildcards["model"]]
    return BaseUse(**{name: getattr(model, name) for name in BaseUse.model_fields})


@_resolver("finetune_cell")
def _finetune(config: Config, wildcards: Wildcards) -> StageParams:
    method = config.methods[wildcards["method"]]
    return FinetuneParams(
        prompting=_prompting(config, wildcards),
        base=_base_use(config, wildcards),
        method=method.without_overrides(),
        recipe=config.finetuning_of(wildcards["method"]),
    )


@_resolver("predict_cell")
def _predict(config: Config, wildcards: Wildcards) -> StageParams:
    return PredictParams(
        prompting=_prompting(config, wildcards),
        base=_base_use(config, wildcards),
        batch_size=config.evaluation.batch_size,
    )


@_resolver("score_cell")
def _score(config: Config, wildcards: Wildcards) -> StageParams:
    return ScoreParams(metrics=config.metrics_of(wildcards["dataset"]))


# report -------------------------------------------------------------------------------------------------------------
@_resolver("collect_metrics")
def collecting(config: Config, wildcards: Wildcards | None = None) -> CollectParams:
    """What collecting the study's results uses: all its cells with what tables say of them."""
    cells = expand_grid(config)
    models = {cell.model: config.models[cell.model] for cell in cells}
    return CollectParams(
        study=config.study,
        cells=tuple(astuple(cell) for cell in cells),
        models={
            name: ModelLabels(**{key: getattr(model, key) for key in ModelLabels.model_fields})
            for name, model in models.items()
        },
        methods={
            cell.method: MethodLabels(
                kind=config.methods[cell.method].kind, trained=config.methods[cell.method].trained
            )
            for cell in cells
        },
        datasets={cell.dataset: config.metrics_of(cell.dataset)[0] for cell in cells},
    )


@_resolver("test_claims")
def claim_testing(config: Config, wildcards: Wildcards | None = None) -> ClaimTestParams:
    """What testing the study's claims uses: what its files of claims say, and what its retrievals search with."""

    def kind_of(retrieval: str) -> str:
        retriever = config.retrievals[retrieval].retriever
        return NO_RETRIEVER if retriever is None else config.retrievers[retriever].kind

    retrievals = dict.fromkeys(cell.retrieval for cell in expand_grid(config))
    return ClaimTestParams(
        claims=tuple(read_claims(config.claims).items()),
        retrievals={name: kind_of(name) for name in retrievals},
        resamples=config.evaluation.resamples,
    )


@_resolver("make_tables")
def making_tables(config: Config, wildcards: Wildcards | None = None) -> MakeTablesParams:
    """What the study's tables use beside results."""
    return MakeTablesParams(
        tables=table_names(config), resamples=config.evaluation.resamples, published=tuple(beside(config))
    )


@_resolver("report_retrieval")
def _report_retrieval(config: Config, wildcards: Wildcards) -> StageParams:
    return ReportRetrievalParams(pairs=tuple(Artifacts(config).measured()))
