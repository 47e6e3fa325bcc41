"""What the stages of a cell use."""

from retrotune.methods import num_virtual_tokens
from retrotune.study.config import Config, DatasetEntry, RetrievalEntry
from retrotune.study.resolve.registry import Wildcards, resolver
from retrotune.study.stages import BaseUse, FinetuneParams, PredictParams, Prompting, ScoreParams, StageParams


def _prompting(config: Config, wildcards: Wildcards) -> Prompting:
    model, dataset = config.models[wildcards["model"]], config.datasets[wildcards["dataset"]]
    retrieval, method = config.retrievals[wildcards["retrieval"]], config.methods[wildcards["method"]]
    return Prompting(
        family=model.family,
        template=dataset.record.prompt_of(dataset.prompt or ("instruct" if model.instruct else "base")),
        layout=retrieval.layout(model.family),
        max_length=config.max_length,
        max_new_tokens=max_new_tokens(dataset),
        virtual_tokens=num_virtual_tokens(method),
        may_lack_passages=not dataset.record.open_domain or _is_gold(config, retrieval),
    )


def max_new_tokens(dataset: DatasetEntry) -> int:
    """The most tokens of an answer to a dataset's questions."""
    return dataset.max_new_tokens or dataset.record.max_new_tokens


def _is_gold(config: Config, retrieval: RetrievalEntry) -> bool:
    return retrieval.retriever is not None and config.retrievers[config.searching(retrieval.retriever)].kind == "gold"


def _base_use(config: Config, wildcards: Wildcards) -> BaseUse:
    model = config.models[wildcards["model"]]
    return BaseUse(**{name: getattr(model, name) for name in BaseUse.model_fields})


@resolver("finetune_cell")
def _finetune(config: Config, wildcards: Wildcards) -> StageParams:
    method = config.methods[wildcards["method"]]
    return FinetuneParams(
        prompting=_prompting(config, wildcards),
        base=_base_use(config, wildcards),
        method=method.without_overrides(),
        recipe=config.finetuning_of(wildcards["method"]),
    )


@resolver("predict_cell")
def _predict(config: Config, wildcards: Wildcards) -> StageParams:
    return PredictParams(
        prompting=_prompting(config, wildcards),
        base=_base_use(config, wildcards),
        batch_size=config.evaluation.batch_size,
    )


@resolver("score_cell")
def _score(config: Config, wildcards: Wildcards) -> StageParams:
    return ScoreParams(metrics=config.metrics_of(wildcards["dataset"]))
