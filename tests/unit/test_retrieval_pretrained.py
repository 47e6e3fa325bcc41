"""Encoders that are not whole, do not fit their tokenizer, or bring code: refused by name, and never half random."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from test_retrieval_vectors import WORDS, make_bert, write_passages

from retrotune.errors import RetrievalError
from retrotune.retrieval.vectors.embeddings import embed_passages
from retrotune.retrieval.vectors.encoders import load_encoder
from retrotune.retrieval.vectors.pretrained import longest_text
from retrotune.runtime.files import read_json
from retrotune.runtime.log import logger
from retrotune.study.config import RetrieverEntry
from retrotune.study.stages import EmbedParams

SHAPE = {"vocab_size": 5 + len(WORDS), "num_attention_heads": 2, "max_position_embeddings": 32, "pad_token_id": 0}
BERT_LIKE = {**SHAPE, "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32}
DISTIL = {**SHAPE, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
Weights = dict[str, torch.Tensor]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_bert(tmp_path / "bert", 7)


def entry_of(folder: Path, **keys: Any) -> RetrieverEntry:
    return RetrieverEntry.model_validate({"query_model": str(folder), "max_length": 16, "pooling": "mean", **keys})


def encode(folder: Path, side: Any = "query", **keys: Any) -> Any:
    return load_encoder(entry_of(folder, **keys), side, "cpu").encode(["who built the red house", "paris"])


def edit(folder: Path, change: Callable[[Weights], Weights]) -> None:
    weights = change(load_file(folder / "model.safetensors"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def configure(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def named(old: str, new: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name.replace(old, new): value for name, value in weights.items()}


def without(part: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name: value for name, value in weights.items() if part not in name}


@pytest.mark.parametrize("side", ["query", "passage"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("attention.output.LayerNorm"), "4 missing .encoder.layer.0.attention.output.LayerNorm.bias, "),
        (without("word_embeddings"), "1 missing .embeddings.word_embeddings.weight"),
        (named("intermediate.dense", "mlp.gate"), "4 missing .*; 4 not of its class .encoder.layer.0.mlp.gate"),
        (named("", ""), "16 not of its class .encoder.layer.1"),
        (named("encoder", "core.encoder"), "32 missing .*32 not of its class .core.encoder.layer"),
        (lambda weights: {**weights, "linear.weight": torch.zeros(4, 16)}, "1 not of its class .linear.weight"),
    ],
)
def test_weights_that_are_missing_or_left_over_are_refused(folder: Path, side: str, change: Any, message: str) -> None:
    if "layer.1" in message:
        configure(folder / "config.json", num_hidden_layers=1)
    edit(folder, change)
    with pytest.raises(RetrievalError, match=f"{folder}.*do not fit its config.json and BertModel: {message}"):
        encode(folder, side, passage_model=str(folder))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_hidden_layers": 3}, "16 missing .encoder.layer.2"),
        ({"intermediate_size": 48}, r"6 of another shape .*\(32,\), not \(48,\)"),
        ({"vocab_size": 40}, "1 of another shape .embeddings.word_embeddings.weight"),
        ({"hidden_size": "wide"}, "cannot be loaded"),
        ({"model_type": "distilbert"}, "missing .*transformer.layer.0"),
        ({"model_type": "t5", "classifier_dropout": 0.0}, "encoder with a decoder"),
    ],
    ids=str,
)
def test_weights_of_another_configuration_are_refused(folder: Path, values: dict[str, Any], message: str) -> None:
    configure(folder / "config.json", **values)
    with pytest.raises(RetrievalError, match=message):
        encode(folder)


def test_what_makes_no_vector_may_be_missing(folder: Path) -> None:
    expected = encode(folder)
    edit(folder, without("pooler."))
    np.testing.assert_array_equal(encode(folder), expected)
    edit(folder, lambda weights: {f"bert.{name}": value for name, value in weights.items()})
    np.testing.assert_array_equal(encode(folder), expected)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("BertForMaskedLM", BERT_LIKE),
        ("BertForPreTraining", BERT_LIKE),
        ("BertForSequenceClassification", BERT_LIKE),
        ("RobertaForMaskedLM", BERT_LIKE),
        ("XLMRobertaForQuestionAnswering", BERT_LIKE),
        ("MPNetForMaskedLM", BERT_LIKE),
        ("ElectraForPreTraining", {**BERT_LIKE, "embedding_size": 16}),
        ("AlbertForPreTraining", {**BERT_LIKE, "embedding_size": 16}),
        ("DebertaV2ForMaskedLM", BERT_LIKE),
        ("DistilBertForMaskedLM", DISTIL),
        ("DistilBertForSequenceClassification", DISTIL),
        ("ModernBertForMaskedLM", {**BERT_LIKE, "global_attn_every_n_layers": 1}),
    ],
)
def test_models_for_other_tasks_load_and_gaps_in_them_do_not(folder: Path, kind: str, shape: dict[str, Any]) -> None:
    model = getattr(transformers, kind)
    model(model.config_class(**shape)).save_pretrained(folder)
    assert np.isfinite(encode(folder)).all()
    lost = next(name for name in load_file(folder / "model.safetensors") if ".att" in name)
    edit(folder, without(lost))
    with pytest.raises(RetrievalError, match=f"1 missing .*{lost.split('.')[-1]}"):
        encode(folder)


def test_shards_that_lack_what_their_index_names_are_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    shards = {name: f"model-0000{1 + ('layer.1' in name)}-of-00002.safetensors" for name in weights}
    for shard in set(shards.values()):
        part = {name: weights[name] for name in weights if shards[name] == shard and "layer.1.output" not in name}
        save_file(part, folder / shard, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    with pytest.raises(RetrievalError, match="4 missing .encoder.layer.1.output.LayerNorm.bias"):
        encode(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(RetrievalError, match=f"'{folder}' cannot be loaded"):
        encode(folder)


def test_an_adapter_is_no_model(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(RetrievalError, match="is an adapter of another model .*merge it"):
        encode(folder)


def test_damaged_weights_are_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(RetrievalError, match="weights are truncated or damaged"):
        encode(folder)


def test_pytorch_weights_are_tensors_and_run_no_code(folder: Path, tmp_path: Path) -> None:
    expected = encode(folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    np.testing.assert_array_equal(encode(folder), expected)
    torch.save({**weights, "code": Touches(tmp_path / "touched")}, folder / "pytorch_model.bin")
    with pytest.raises(RetrievalError, match="cannot be loaded"):
        encode(folder)
    assert not (tmp_path / "touched").exists()
    del weights["embeddings.LayerNorm.bias"]
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(RetrievalError, match="1 missing"):
        encode(folder)


class Touches:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


# tokenizers ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "added", [{"pad_token": "[FILL]"}, {"additional_special_tokens": ["[DOC]"]}, {"sep_token": "[END]"}], ids=str
)
@pytest.mark.parametrize("side", ["query", "passage"])
def test_tokens_without_an_embedding_are_refused(folder: Path, side: str, added: dict[str, Any]) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens(added)
    tokenizer.save_pretrained(folder)
    with pytest.raises(RetrievalError, match=r"1 tokens beyond the 19 rows .*\('\[\w+\]' = 19\)"):
        encode(folder, side)


def test_words_without_an_embedding_are_refused(folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"word{number}" for number in range(5)])
    tokenizer.save_pretrained(folder)
    with pytest.raises(RetrievalError, match="5 tokens beyond the 19 rows .*'word0' = 19, 'word1' = 20, .*, \\.\\.\\."):
        encode(folder)
    edit(folder, lambda weights: {**weights, ROWS: torch.cat([weights[ROWS], torch.ones(9, 16)])})
    configure(folder / "config.json", vocab_size=28)
    assert encode(folder).shape == (2, 16), "rows that no token has are no fault"


ROWS = "embeddings.word_embeddings.weight"


# code ----------------------------------------------------------------------------------------------------------------
CODE = """
from transformers import BertConfig, BertModel
MARK.touch()
class OwnConfig(BertConfig):
    model_type = "own_bert"
class OwnModel(BertModel):
    config_class = OwnConfig
    def forward(self, **keys):
        output = super().forward(**keys)
        output.last_hidden_state = 3 * output.last_hidden_state
        return output
"""


@pytest.fixture
def with_code(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a class of its own, which touches a file when it is imported."""
    mark = f"import pathlib; MARK = pathlib.Path({str(tmp_path / 'ran')!r})"
    (folder / "own.py").write_text(mark + CODE)
    classes = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    configure(folder / "config.json", model_type="own_bert", auto_map=classes)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
    return folder


def test_code_of_a_folder_is_not_run(with_code: Path, tmp_path: Path) -> None:
    for side in ("query", "passage"):
        with pytest.raises(RetrievalError, match=r"config.json: auto_map: .*own.OwnModel.*trust_remote_code: true"):
            encode(with_code, side)
    assert sys.stdin.read().count("y") == 9, "nobody was asked"
    assert not (tmp_path / "ran").exists()


def test_code_is_refused_whatever_it_stands_for(folder: Path) -> None:
    configure(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.OwnTokenizer", None]})
    with pytest.raises(RetrievalError, match=r"tokenizer_config.json: auto_map"):
        encode(folder)
    configure(folder / "tokenizer_config.json", auto_map={})
    encode(folder)
    configure(folder / "config.json", auto_map={"AutoModel": "someone/else--own.OwnModel"})
    with pytest.raises(RetrievalError, match=r"config.json: auto_map"):
        encode(folder)
    configure(folder / "config.json", auto_map={}, model_type="own_bert")
    with pytest.raises(RetrievalError, match="cannot be loaded"):
        encode(folder)


def test_trusted_code_is_run_checked_and_recorded(with_code: Path, tmp_path: Path) -> None:
    plain = make_bert(tmp_path / "plain", 7)
    np.testing.assert_allclose(encode(with_code, trust_remote_code=True), 3 * encode(plain), atol=1e-5)
    assert (tmp_path / "ran").exists()
    passages = write_passages(tmp_path / "passages.parquet", 3)
    for folder, trusted in ((with_code, True), (plain, False)):
        entry = entry_of(folder, trust_remote_code=trusted)
        embed_passages(EmbedParams(retriever=entry), passages, tmp_path / f"{folder.name}.json", devices=["cpu"])
        assert read_json(tmp_path / f"{folder.name}.json")["trust_remote_code"] is trusted
    edit(with_code, without("layer.1.output.dense"))
    with pytest.raises(RetrievalError, match="and OwnModel: 2 missing"):
        encode(with_code, trust_remote_code=True)


def replaced(folder: Path, kind: str, **changes: Any) -> Path:
    """The folder with an encoder of another kind, of 24 positions as its configuration counts them."""
    torch.manual_seed(3)
    config = transformers.AutoConfig.for_model(kind, **{**BERT_LIKE, "max_position_embeddings": 24, **changes})
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    return folder


LONG = " ".join(WORDS * 9)
LENGTHS = [
    ("bert", {}, 24),
    ("distilbert", DISTIL, 24),
    ("roberta", {"pad_token_id": 1}, 22),
    ("xlm-roberta", {"pad_token_id": 3}, 20),
    ("camembert", {"pad_token_id": 1}, 22),
    ("mpnet", {"pad_token_id": 1}, 22),
    ("ibert", {"pad_token_id": 1}, 22),
    ("deberta-v2", {"position_biased_input": True}, 24),
]


@pytest.mark.parametrize(("kind", "changes", "longest"), LENGTHS)
def test_the_longest_text_is_what_the_positions_really_hold(
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    changes: Any,
    longest: int,
) -> None:
    monkeypatch.setattr(logger, "propagate", True)
    changes = {**changes, "max_position_embeddings": 24}
    replaced(folder, kind, **changes)
    configure(folder / "tokenizer_config.json", model_max_length=24)
    for given in (longest, None):
        vectors = load_encoder(entry_of(folder, max_length=given), "passage", "cpu").encode([LONG, "paris"])
        assert np.isfinite(vectors).all()
    assert ("takes 22 tokens at most, not 24" in caplog.text) == (longest == 22)
    with pytest.raises(RetrievalError, match=f"max_length={longest + 1}, but .*bert.* takes {longest} tokens at most"):
        load_encoder(entry_of(folder, max_length=longest + 1), "passage", "cpu")
    if longest < 24:
        tables = transformers.AutoModel.from_pretrained(folder)
        with pytest.raises((IndexError, RuntimeError)):
            tables(input_ids=torch.full((1, longest + 1), 5))


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("deberta-v2", {"position_biased_input": False, "relative_attention": True, "pos_att_type": ["p2c"]}),
        ("modernbert", {"max_position_embeddings": -1, "num_hidden_layers": 1}),
    ],
)
def test_relative_positions_have_no_longest_text(folder: Path, kind: str, changes: Any) -> None:
    replaced(folder, kind, **changes)
    encoder = load_encoder(entry_of(folder, max_length=60), "passage", "cpu")
    assert np.isfinite(encoder.encode([LONG])).all()
    assert longest_text(encoder.model) is None


def test_a_declared_length_holds_where_positions_are_turned(folder: Path) -> None:
    replaced(folder, "modernbert", num_hidden_layers=1)
    with pytest.raises(RetrievalError, match="takes 24 tokens at most"):
        load_encoder(entry_of(folder, max_length=25), "passage", "cpu")
