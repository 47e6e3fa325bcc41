"""What sentence-transformers folders declare: vectors are the library's own, or the folder is refused by name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from test_retrieval_vectors import make_bert

from retrotune.errors import RetrievalError
from retrotune.retrieval.vectors import encoders
from retrotune.retrieval.vectors.declared import complete
from retrotune.retrieval.vectors.encoders import load_encoder
from retrotune.study.config import RetrieverEntry

TEXTS = ["who built the red house", "A RIVER in Paris was green", "the mountain " * 20]
LEGACY = {"word_embedding_dimension": 16, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
LIBRARY = "sentence_transformers.models"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sentence-transformers folder with mean pooling, whose tokenizer keeps capitals, which its vocabulary lacks."""
    folder = make_bert(tmp_path / "bert", 5)
    edit(folder / "tokenizer.json", normalizer=None)
    write(folder / "modules.json", modules())
    write(folder / "1_Pooling" / "config.json", LEGACY)
    write(folder / "sentence_bert_config.json", {"max_seq_length": 24})
    return folder


def modules(*kinds: str) -> list[dict[str, Any]]:
    places = {"": f"{LIBRARY}.Transformer", "1_Pooling": f"{LIBRARY}.Pooling"}
    places |= {f"{number}_More": kind for number, kind in enumerate(kinds, 2)}
    return [
        {"idx": idx, "name": str(idx), "path": path, "type": kind} for idx, (path, kind) in enumerate(places.items())
    ]


def write(path: Path, values: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(values))


def edit(path: Path, **values: Any) -> None:
    write(path, {**(json.loads(path.read_text()) if path.exists() else {}), **values})


@pytest.mark.parametrize("file", ["modules.json", "1_Pooling/config.json", "sentence_bert_config.json", "vocab.txt"])
def test_a_link_to_nothing_declares_nothing_and_is_refused(folder: Path, file: str) -> None:
    entry = RetrieverEntry(query_model=str(folder))
    load_encoder(entry, "query")
    (folder / file).unlink(missing_ok=True)
    (folder / file).symlink_to("gone")
    for read in (lambda: load_encoder(entry, "query"), lambda: encoders.fingerprint(entry)):
        with pytest.raises(RetrievalError, match=f"{file}: a link to gone, where no file is; put the file there"):
            read()


FILES = {
    "pooling": "1_Pooling/config.json",
    "transformer": "sentence_bert_config.json",
    "settings": "config_sentence_transformers.json",
    "tokenizer": "tokenizer_config.json",
}


def change(folder: Path, where: str, values: Any) -> None:
    """Replace a file, but the tokenizer's settings, to which `values` are added."""
    if where == "modules":
        write(folder / "modules.json", values)
    elif where == "tokenizer":
        edit(folder / FILES[where], **values)
    else:
        write(folder / FILES[where], values)


@pytest.mark.parametrize(
    ("where", "values"),
    [
        ("transformer", {"max_seq_length": 24, "do_lower_case": True}),
        ("transformer", {"max_seq_length": 9}),
        ("transformer", {"max_seq_length": 24, "tokenizer_args": {"model_max_length": 7}}),
        ("transformer", {"max_seq_length": 12, "model_args": {"add_pooling_layer": False}}),
        ("transformer", {"max_seq_length": 24, "model_kwargs": {"attn_implementation": "eager"}}),
        ("pooling", {"embedding_dimension": 16, "pooling_mode": "mean", "include_prompt": True}),
        ("pooling", {"embedding_dimension": 16, "pooling_mode": "cls"}),
        ("pooling", {"embedding_dimension": 16, "pooling_mode": ["cls"]}),
        ("pooling", {"word_embedding_dimension": 16, "pooling_mode_cls_token": False}),
        ("pooling", {**LEGACY, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}),
        ("modules", modules(f"{LIBRARY}.Normalize")),
        ("settings", {"__version__": {}, "prompts": {"query": "the red "}, "similarity_fn_name": "dot"}),
        ("settings", {"prompts": {"query": "in ", "document": "by "}, "default_prompt_name": "document"}),
    ],
    ids=str,
)
def test_vectors_are_those_of_sentence_transformers(folder: Path, where: str, values: Any) -> None:
    change(folder, where, values)
    theirs = SentenceTransformer(str(folder), device="cpu")
    for side, encode in (("query", theirs.encode_query), ("passage", theirs.encode_document)):
        ours = load_encoder(RetrieverEntry(query_model=str(folder)), side, "cpu").encode(TEXTS)
        np.testing.assert_allclose(ours, encode(TEXTS), atol=1e-5)


def test_settings_as_they_are_saved_today_are_followed(folder: Path, tmp_path: Path) -> None:
    theirs = SentenceTransformer(str(folder), device="cpu")
    theirs.max_seq_length = 11
    theirs.save_pretrained(str(tmp_path / "saved"))
    assert "max_seq_length" not in json.loads((tmp_path / "saved" / "sentence_bert_config.json").read_text())
    entry = RetrieverEntry(query_model=str(tmp_path / "saved"), normalize=False)
    np.testing.assert_allclose(load_encoder(entry, "query", "cpu").encode(TEXTS), theirs.encode(TEXTS), atol=1e-5)


@pytest.mark.parametrize(
    ("where", "values", "message", "overriding"),
    [
        ("pooling", {**LEGACY, "pooling_mode_max_tokens": True}, "declares mean.max_tokens pooling", "pooling"),
        ("pooling", {"pooling_mode": "weightedmean"}, "declares weightedmean pooling", "pooling"),
        ("pooling", {"pooling_mode": "lasttoken"}, "declares lasttoken pooling", "pooling"),
        ("pooling", {"pooling_mode": ["cls", "mean"]}, "declares cls.mean pooling", "pooling"),
        ("pooling", {**LEGACY, "pooling_mode_median": False}, "pooling_mode_median: false", "pooling"),
        ("pooling", {**LEGACY, "layers": [1]}, r"1_Pooling/config.json: layers: \[1\] is not followed", "pooling"),
        ("settings", {"similarity_fn_name": "euclidean"}, "similarity_fn_name: .euclidean.", "normalize"),
        ("settings", {"similarity_fn_name": "maxsim"}, "similarity_fn_name: .maxsim.", "normalize"),
        ("settings", {"prompts": {"search_query": "s: "}}, "set query_prefix", "query_prefix"),
        ("settings", {"prompts": {"query": "s: "}, "default_prompt_name": "query"}, "passage_prefix", "passage_prefix"),
        ("settings", {"default_prompt_name": "web"}, "default_prompt_name: .web.", "query_prefix"),
        ("transformer", {"max_seq_length": "all"}, "max_seq_length or model_max_length: .all.", "max_length"),
        ("settings", {"prompts": ["q: "]}, r"prompts: \[.q: .\]", ""),
        ("settings", {"truncate_dim": 8}, "config_sentence_transformers.json: truncate_dim: 8", ""),
        ("settings", {"model_type": "SparseEncoder"}, "model_type: .SparseEncoder.", ""),
        ("settings", {"requirements": {"peft": ">99"}}, "requirements", ""),
        ("settings", {"scale": 20}, "scale: 20", ""),
        ("transformer", {"do_lower_case": "yes"}, "sentence_bert_config.json: do_lower_case: .yes.", ""),
        ("transformer", {"transformer_task": "fill-mask"}, "transformer_task: .fill-mask.", ""),
        ("transformer", {"modality_config": {"message": {}}}, "modality_config", ""),
        ("transformer", {"processing_kwargs": {"text": {"padding": "max_length"}}}, "processing_kwargs", ""),
        ("transformer", {"query_length": 8}, "query_length: 8", ""),
        ("transformer", {"query_expansion": {"length": 8}}, "query_expansion", ""),
        ("transformer", {"backend": "onnx"}, "backend: .onnx.", ""),
        ("transformer", {"tokenizer_args": {"padding_side": "left"}}, "tokenizer_args.padding_side: .left.", ""),
        ("transformer", {"processor_kwargs": {"do_lower_case": True}}, "processor_kwargs.do_lower_case: true", ""),
        ("transformer", {"model_args": {"quantization_config": {}}}, "model_args.quantization_config", ""),
        ("transformer", {"config_args": {"num_hidden_layers": 1}}, "config_args.num_hidden_layers: 1", ""),
        ("modules", modules()[:1], "modules.json lists Transformer", ""),
        ("modules", modules(f"{LIBRARY}.Dense"), "lists Dense", ""),
        ("modules", modules(f"{LIBRARY}.LayerNorm", f"{LIBRARY}.Normalize"), "lists LayerNorm", ""),
        ("modules", [{"type": f"{LIBRARY}.Router", "path": ""}], "lists Router", ""),
        ("modules", [{"type": f"{LIBRARY}.Asym", "path": ""}, *modules()[1:]], "lists Asym", ""),
        ("modules", modules("custom.Normalize"), "lists custom.Normalize", ""),
        ("modules", modules()[::-1], "in this order", ""),
        ("modules", [{**modules()[0], "path": "0_Transformer"}, modules()[1]], "name the folder .*0_Transformer", ""),
        ("modules", [{**modules()[0], "kwargs": ["task"]}, modules()[1]], r"module.kwargs: \[.task.\]", ""),
        ("modules", ["Transformer"], "module: .Transformer.", ""),
        ("modules", [modules()[0], {**modules()[1], "path": "pool"}], "pool/config.json: missing", "pooling"),
    ],
    ids=str,
)
def test_what_is_not_followed_is_refused_unless_the_study_says_it(
    folder: Path, where: str, values: Any, message: str, overriding: str
) -> None:
    change(folder, where, values)
    with pytest.raises(RetrievalError, match=message):
        load_encoder(RetrieverEntry(query_model=str(folder)), "query", "cpu")
    said = {"pooling": "mean", "normalize": False, "max_length": 8, "query_prefix": "", "passage_prefix": ""}
    said["title_separator"] = "blank"
    entry = RetrieverEntry.model_validate({"query_model": str(folder), **said})
    if overriding:
        assert complete(entry, folder) == entry
        with pytest.raises(RetrievalError, match=message):
            complete(entry.model_copy(update={overriding: None}), folder)
    else:
        with pytest.raises(RetrievalError, match=message):
            complete(entry, folder)


def test_prefixes_that_are_not_pooled_are_refused(folder: Path) -> None:
    edit(folder / FILES["pooling"], include_prompt=False)
    plain = RetrieverEntry(query_model=str(folder))
    assert complete(plain, folder).query_prefix == "", "without a prefix there is nothing to leave out"
    for entry in (plain.model_copy(update={"passage_prefix": "by "}), plain):
        if entry is plain:
            write(folder / FILES["settings"], {"prompts": {"query": "the "}})
        with pytest.raises(RetrievalError, match=r"include_prompt: false.*query_prefix and passage_prefix"):
            complete(entry, folder)


def test_lengths_that_are_declared_fill_what_is_not_given(folder: Path) -> None:
    entry = RetrieverEntry(query_model=str(folder))
    assert complete(entry, folder).max_length == 24
    assert complete(entry.model_copy(update={"max_length": 30}), folder).max_length == 30
    write(folder / FILES["transformer"], {})
    assert complete(entry, folder).max_length == 512
    edit(folder / FILES["tokenizer"], model_max_length=20)
    assert complete(entry, folder).max_length == 20
    write(folder / "sentence_roberta_config.json", {"max_seq_length": 10})
    assert complete(entry, folder).max_length == 10


def test_lower_case_needs_a_tokenizer_that_can_do_it(folder: Path) -> None:
    from retrotune.retrieval.vectors.pretrained import lower_cased

    class Slow:
        is_fast = False

    with pytest.raises(RetrievalError, match="do_lower_case: true.*this is a Slow"):
        lower_cased("name", Slow())


def test_what_a_hub_model_declares_is_given_or_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "model_folder", lambda name, location: folder)
    monkeypatch.setattr(encoders, "load_pretrained", lambda name, location, trust: 1 / 0)
    entry = RetrieverEntry(query_model="some/model", pooling="mean", normalize=False)
    with pytest.raises(RetrievalError, match=r"'some/model' on the hub declares \{'max_length': 24\}: give them"):
        load_encoder(entry, "query")
    with pytest.raises(ZeroDivisionError):
        load_encoder(entry.model_copy(update={"max_length": 24}), "query")
