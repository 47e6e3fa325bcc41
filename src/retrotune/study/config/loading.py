"""From YAML to a checked study: each problem is a line with the key, what is wrong, and the nearest known one."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from retrotune.data.scores import METRICS
from retrotune.errors import ConfigError
from retrotune.study.config.base import PAPER_SIZES
from retrotune.study.config.claim_files import read_claims
from retrotune.study.config.models import SOURCES, BaseTraining, ModelEntry, RetrofittingEntry
from retrotune.study.config.problems import explained, nearest
from retrotune.study.config.reading import read_yaml
from retrotune.study.config.study import Config


def load_config(raw: Mapping[str, Any]) -> Config:
    """Validate a parsed YAML mapping.

    Raises `ConfigError` with one line per problem: the key's path, what is wrong, and the nearest known key or name.
    """
    raw = {key: value for key, value in raw.items() if value is not None}
    if isinstance(raw.get("grid"), Mapping):
        raw["grid"] = [raw["grid"]]
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        lines = explained(error, Config.model_json_schema())
        raise ConfigError("the configuration has errors:\n  " + "\n  ".join(lines)) from None
    problems = [
        *_look_alikes(config),
        *_dangling(config),
        *_control_problems(config),
        *_retrofit_problems(config),
        *_window_problems(config),
        *_metric_problems(config),
        *_replicate_problems(config),
    ]
    if problems:
        raise ConfigError("the configuration has errors:\n  " + "\n  ".join(problems))
    read_claims(config.claims)
    return config


def read_config(path: str | Path) -> Config:
    """Read and validate a YAML file."""
    return load_config(read_yaml(path))


def _unknown(place: str, name: str | None, known: Mapping[str, Any] | tuple[str, ...], kind: str) -> Iterator[str]:
    if name is not None and name not in known:
        yield f"{place}: no entry {name!r} in `{kind}`; {nearest(name, list(known))}"


def _metric_problems(config: Config) -> Iterator[str]:
    """Metrics that are unknown, or that a dataset's questions cannot be scored by."""
    for dataset, metrics in config.evaluation.metrics.items():
        place = f"evaluation.metrics.{dataset}"
        if dataset not in config.datasets:
            yield from _unknown(place, dataset, config.datasets, "datasets")
            continue
        has_options = any(METRICS[name].needs_options for name in config.datasets[dataset].record.metrics)
        for name in metrics:
            if name not in METRICS:
                yield f"{place}: unknown metric {name!r}; {nearest(name, list(METRICS))}"
            elif METRICS[name].needs_options and not has_options:
                yield f"{place}: {name} needs questions with options, which {dataset} has not"


def _replicate_problems(config: Config) -> Iterator[str]:
    """Replicates of nothing, of another replicate, or of a model that differs in more than its training, or in nothing.

    A replicate that was the same model would say that trainings do not vary.
    """
    for name, entry in config.models.items():
        original = entry.replicate_of
        place = f"models.{name}.replicate_of"
        if original is None:
            continue
        if original not in config.models:
            yield from _unknown(place, original, config.models, "models")
            continue
        model = config.models[original]
        if model.replicate_of is not None or original == name:
            yield f"{place}: {original!r} is a replicate itself: name the model that both replicate"
            continue
        for key in ("family", "size", "instruct", "retrieval_gate", "precision"):
            if getattr(model, key) != getattr(entry, key):
                yield f"{place}: {key} is {getattr(entry, key)}, that of {original} is {getattr(model, key)}"
        sources = [{key: getattr(one, key) for key in (*SOURCES, "retrofitting")} for one in (model, entry)]
        if sources[0] == sources[1]:
            yield f"{place}: made as {original} is, to the last weight: give it a training of another seed"


def _look_alikes(config: Config) -> Iterator[str]:
    """Names that differ in case only: where file systems ignore it, their files would be the same."""
    for kind in Config.model_fields:
        names = getattr(config, kind)
        first: dict[str, str] = {}
        for name in names if isinstance(names, Mapping) else ():
            if first.setdefault(name.lower(), name) != name:
                yield f"{kind}.{name}: differs from {first[name.lower()]!r} in upper and lower case only: rename one"


def _dangling(config: Config) -> Iterator[str]:
    """Problems between entries: names without an entry, and names used twice where paths would collide."""
    check = _unknown
    if config.data_root is None and config.world is None:
        for name, entry in config.corpora.items():
            if entry.download is None:
                yield f"corpora.{name}: plain text has no official source to download from: set data_root"
    for name in sorted(set(config.datasets) & set(config.corpora)):
        yield f"datasets.{name}: a corpus has the same name; rename one, passages are stored by name"
    for name, retrieval in config.retrievals.items():
        place = f"retrievals.{name}"
        yield from check(f"{place}.retriever", retrieval.retriever, config.retrievers, "retrievers")
        yield from check(f"{place}.index", retrieval.index, config.indexes, "indexes")
        yield from check(f"{place}.corpus", retrieval.corpus, config.corpora, "corpora")
        yield from check(f"{place}.chunking", retrieval.chunking, config.chunkings, "chunkings")
        retriever = config.retrievers.get(retrieval.retriever or "")
        searching = config.retrievers.get((retriever and retriever.base_name) or "", retriever)
        if searching is not None and searching.kind == "dense" and retrieval.index is None:
            yield f"{place}.index: the dense retriever {retrieval.retriever!r} needs an entry of `indexes`"
    for name, chunking in config.chunkings.items():
        yield from check(f"chunkings.{name}.tokenizer", chunking.tokenizer, config.tokenizers, "tokenizers")
    for name, tokenizer in config.tokenizers.items():
        for corpus in tokenizer.corpora:
            yield from check(f"tokenizers.{name}.corpora", corpus, config.corpora, "corpora")
    for name, pretraining in config.pretrainings.items():
        yield from check(f"pretrainings.{name}.tokenizer", pretraining.tokenizer, config.tokenizers, "tokenizers")
    for place, training in _trainings(config):
        for corpus in training.corpora:
            yield from check(f"{place}.corpora", corpus, config.corpora, "corpora")
        yield from check(f"{place}.retrieval", training.retrieval, config.retrievals, "retrievals")
        named = config.retrievals.get(training.retrieval or "")
        if named is not None and named.retriever is not None and named.corpus is None:
            yield f"{place}.retrieval: retrievals.{training.retrieval} names no corpus to retrieve from"
        if named is None or not (named.gpt.needed or named.retro.num_contexts):
            continue
        if isinstance(training, RetrofittingEntry):
            yield (
                f"{place}.retrieval: retrievals.{training.retrieval} has num_contexts: set it to 0, as a retrofitted "
                "model and its baseline see the same tokens, and passages in the encoder only"
            )
        elif training.neighbors_per == "chunk":
            yield (
                f"{place}.neighbors_per: chunks get their passages in the encoder only, but retrievals."
                f"{training.retrieval} has num_contexts: set it to 0, or neighbors_per: document"
            )
    for name, model in config.models.items():
        place = f"models.{name}"
        yield from check(f"{place}.pretraining", model.pretraining, config.pretrainings, "pretrainings")
        if model.pretraining is not None:
            yield from check(f"{place}.size", model.size, (*PAPER_SIZES, *config.sizes), "sizes")
        size = config.sizes.get(model.size)
        if model.family == "retro" and model.pretraining is not None and size is not None and not size.can_cross:
            yield (
                f"{place}.size: {model.size} has no cross-attention layer: list sizes.{model.size}."
                "cross_attention_layers (NVIDIA's rule needs 6 layers or more)"
            )
    for number, grid in enumerate(config.grid):
        for key in ("models", "methods", "datasets", "retrievals"):
            for name in getattr(grid, key) or ():
                yield from check(f"grid.{number}.{key}", name, getattr(config, key), key)
        for retrieval_name in grid.retrievals:
            named = config.retrievals.get(retrieval_name)
            for dataset in grid.datasets or config.datasets:
                open_domain = dataset in config.datasets and config.datasets[dataset].record.open_domain
                if named is not None and named.retriever is not None and open_domain and named.corpus is None:
                    yield f"retrievals.{retrieval_name}.corpus: needed, because {dataset} is open-domain"


def _trainings(config: Config) -> Iterator[tuple[str, BaseTraining]]:
    """(place, recipe) of all that base models are trained by."""
    yield from ((f"pretrainings.{name}", entry) for name, entry in config.pretrainings.items())
    yield from ((f"retrofittings.{name}", entry) for name, entry in config.retrofittings.items())


def _control_problems(config: Config) -> Iterator[str]:
    """What is wrong with controls: the base of a degraded retriever, and answers where there are none to look for."""
    for name, entry in config.retrievers.items():
        place = f"retrievers.{name}.base"
        if entry.base is not None and entry.base_name is None:
            yield f"{place}: not the name of an entry of `retrievers`: give the base an entry of its own, and name it"
        yield from _unknown(place, entry.base_name, config.retrievers, "retrievers")
        base = config.retrievers.get(entry.base_name or "")
        if base is not None and base.kind == "degraded":
            yield f"{place}: {entry.base!r} is degraded itself: name its base, {base.base!r}"

    def seeks_answers(retrieval: str | None) -> bool:
        named = config.retrievals.get(retrieval or "")
        retriever = config.retrievers.get((named and named.retriever) or "")
        searching = config.retrievers.get((retriever and retriever.base_name) or "", retriever)
        return searching is not None and searching.kind == "gold"

    for place, training in _trainings(config):
        if seeks_answers(training.retrieval):
            yield (
                f"{place}.retrieval: retrievals.{training.retrieval} is gold, but text to train on has no answers to "
                "look for: name another retrieval"
            )
    for grid in config.grid:
        for retrieval in filter(seeks_answers, grid.retrievals):
            for dataset in grid.datasets or config.datasets:
                if dataset in config.datasets and not config.datasets[dataset].record.gold:
                    yield (
                        f"retrievals.{retrieval}: gold, but answers of {dataset} are summaries, which no passage "
                        "holds: leave the dataset out of this grid"
                    )


def _retrofit_problems(config: Config) -> Iterator[str]:
    """What is wrong with models made from other models; shapes are checked here where this study defines them."""
    for name, model in config.models.items():
        if model.retrofit_from is None:
            continue
        place, source = f"models.{name}", config.models.get(model.retrofit_from)
        yield from _unknown(f"{place}.retrofit_from", model.retrofit_from, config.models, "models")
        yield from _unknown(f"{place}.retrofitting", model.retrofitting, config.retrofittings, "retrofittings")
        chain = _sources(config, name)
        if chain is None:
            yield f"{place}.retrofit_from: {model.retrofit_from!r} comes from {name!r} itself: start from another model"
        elif source is not None and source.family == "retro":
            yield f"{place}.retrofit_from: {model.retrofit_from!r} is a RETRO already: start from a GPT"
        elif source is not None and source.hub is not None:
            yield (
                f"{place}.retrofit_from: {model.retrofit_from!r} is of a class of transformers' own: download it and "
                f"make it ours with models.{model.retrofit_from}.checkpoint: {{path: FOLDER}} instead of `hub`"
            )
        elif model.retrofitting in config.retrofittings:
            yield from _recipe_problems(config, place, model, chain[-1])


def _window_problems(config: Config) -> Iterator[str]:
    """Models of cells whose window, where this study defines it, is shorter than what cells may ask for."""
    for name in dict.fromkeys(name for grid in config.grid for name in grid.models or config.models):
        chain = _sources(config, name) if name in config.models else None
        if not chain or chain[-1].pretraining is None or chain[-1].size not in config.sizes:
            continue
        place, window = f"sizes.{chain[-1].size}.max_length", config.sizes[chain[-1].size].max_length
        if config.max_length > window:
            yield (
                f"models.{name}: max_length={config.max_length} exceeds its window ({place}={window}): lower "
                "max_length, for all models alike"
            )


def _sources(config: Config, name: str) -> list[ModelEntry] | None:
    """The models that one was made from, the first made last; None if they go in a circle."""
    chain, seen = [config.models[name]], {name}
    while (source := chain[-1].retrofit_from) in config.models:
        if source in seen:
            return None
        seen.add(source)
        chain.append(config.models[source])
    return chain


def _recipe_problems(config: Config, place: str, model: ModelEntry, first: ModelEntry) -> Iterator[str]:
    """What a model's recipe cannot do with it; `first` is the model whose weights were random once."""
    assert model.retrofitting is not None
    recipe, recipe_place = config.retrofittings[model.retrofitting], f"retrofittings.{model.retrofitting}"
    retrieval = config.retrievals.get(recipe.retrieval or "")
    if model.family == "gpt" and recipe.train == "new":
        yield f"{place}: {recipe_place} trains new parts only, a GPT has none: {model.retrofit_from!r} is the baseline"
    if model.family == "retro" and not (retrieval and retrieval.retro.num_neighbors):
        yield f"{recipe_place}.retrieval: a RETRO learns from neighbors: name a retrieval with retro.num_neighbors"
    size = config.sizes.get(first.size) if first.pretraining is not None else None
    if size is None:
        return
    if recipe.sequence_length > size.max_length:
        yield (
            f"{recipe_place}.sequence_length: {recipe.sequence_length} exceeds the window of {model.retrofit_from!r} "
            f"(sizes.{first.size}.max_length={size.max_length}): lower it"
        )
    layers = recipe.cross_attention_layers
    if model.family == "retro" and layers is None and size.num_layers < 6:
        yield (
            f"{recipe_place}.cross_attention_layers: NVIDIA's rule puts none into the {size.num_layers} layers of "
            f"{model.retrofit_from!r} (it needs 6 or more): list them"
        )
    outside = [layer for layer in layers or () if layer >= size.num_layers]
    if outside:
        yield (
            f"{recipe_place}.cross_attention_layers {outside}: {model.retrofit_from!r} has layers 0 to "
            f"{size.num_layers - 1} only"
        )
