"""`retrotune prompt`: what it shows is what prediction made, for both families."""

import json
import shutil

import pandas as pd
import pytest
import torch
import yaml
from tokenizer_cases import make
from transformers import LlamaConfig, LlamaForCausalLM

from retrotune import cli
from retrotune.data.datasets import Example
from retrotune.errors import DataError
from retrotune.models import RetroConfig, RetroForCausalLM
from retrotune.prediction import seen as seeing
from retrotune.prediction.generate import predict_cell
from retrotune.prediction.seen import find_question, what_was_seen
from retrotune.preparing.examples import write_examples, write_references
from retrotune.runtime.files import write_json, write_parquet
from retrotune.study.cells import expand_grid
from retrotune.study.config import load_config
from retrotune.study.paths import Paths
from retrotune.study.resolve import cell_stages

QUESTIONS = [
    *(Example(f"q{n}", "Who kept " + "the old mill by the river " * n + "?", ("Tamo",)) for n in range(4)),
    Example("mark", "What does </s> mean?", ("the end",)),
]
STUDY = {
    "study": "tiny",
    "data_root": "somewhere",
    "datasets": {"nq": {"reader": "nq", "path": "nq", "max_new_tokens": 6}},
    "corpora": {"wiki": {"reader": "text", "path": "wiki"}},
    "chunkings": {"words100": {}},
    "retrievers": {"bm25": {"kind": "bm25"}},
    "retrievals": {
        "bm25": {
            "retriever": "bm25", "corpus": "wiki", "chunking": "words100", "top_k": 3,
            "gpt": {"num_contexts": 2}, "retro": {"num_contexts": 1, "num_neighbors": 2},
        }
    },
    "models": {
        "g": {"family": "gpt", "size": "tiny", "path": "somewhere"},
        "r": {"family": "retro", "size": "tiny", "path": "somewhere"},
    },
    "methods": {"zeroshot": {"kind": "zeroshot"}, "ptuning": {"kind": "ptuning", "num_virtual_tokens": 5}},
    "max_length": 96,
    "evaluation": {"batch_size": 8},
    "grid": {"retrievals": ["bm25"]},
}  # fmt: skip


def save_model(kind, config_kind, folder, **values):
    """A random model with a window of 256 tokens and a byte-level tokenizer."""
    tokenizer = make("gpt2")
    torch.manual_seed(5)
    config = config_kind(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=256, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, **values,
    )  # fmt: skip
    model = kind(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_json(f"{folder}/manifest.json", {"num_parameters": model.num_parameters()})


@pytest.fixture
def cells(tmp_path, monkeypatch):
    """Cells of a study whose models, questions and neighbors are on disk, by family and method."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY))
    config = load_config(STUDY)
    paths = Paths.of(config)
    save_model(LlamaForCausalLM, LlamaConfig, paths.model("g"))
    chunks = {"chunk_length": 8, "retrieved_length": 16, "cross_attention_layers": [0, 1]}
    save_model(RetroForCausalLM, RetroConfig, paths.model("r"), **chunks)
    write_examples(paths.examples("nq", "test"), QUESTIONS, with_answer=False)
    write_references(paths.references("nq", "test"), QUESTIONS)
    rows = [
        {
            "question_id": question.question_id, "rank": rank, "passage_id": f"p{number}.{rank}", "title": "Mill",
            "text": "It rained on Monday. " * (1 + 3 * rank), "score": 1.0 - rank,
        }
        for number, question in enumerate(QUESTIONS)
        for rank in range(3)
    ]  # fmt: skip
    write_parquet(paths.neighbors("bm25", "nq", "test"), pd.DataFrame(rows))
    return {(cell.model, cell.method): cell for cell in expand_grid(config)}


def predict(cell):
    config = load_config(STUDY)
    paths = Paths.of(config)
    predict_cell(
        cell_stages(config, cell)["predict_cell"], cell, paths.model(cell.model), None, paths.examples("nq", "test"),
        paths.neighbors("bm25", "nq", "test"), paths.cell(cell, "predictions.jsonl"),
        paths.cell(cell, "predict.json"), paths.work(cell.name),
    )  # fmt: skip
    with open(paths.cell(cell, "predictions.jsonl"), encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


@pytest.mark.parametrize("model", ["g", "r"])
def test_it_is_what_prediction_saw(cells, capsys, model):
    cell = cells[model, "zeroshot"]
    assert what_was_seen(load_config(STUDY), cell, "q2").predicted is None
    for record in predict(cell):
        assert cli.main(["prompt", cell.name, record["question_id"], "--configfile", "study.yaml", "--json"]) == 0
        seen = json.loads(capsys.readouterr().out)
        assert seen["prompt_hash"] == record["prompt_hash"]
        assert (seen["prompt_tokens"], seen["cut_tokens"]) == (
            record["num_prompt_tokens"],
            record["num_truncated_tokens"],
        )
        assert [passage["passage_id"] for passage in seen["contexts"]] == record["context_ids"]
        assert [passage["passage_id"] for passage in seen["neighbors"]] == record["neighbor_ids"]
        assert (seen["predicted"], seen["differs"]) == (record, False)
        assert seen["prompt"].endswith(f"Question: {record['question']} Answer: The answer is")
        assert (seen["left_padding"] + seen["prompt_tokens"]) % 8 == 0 or model == "g"


def test_the_text_says_what_was_cut_and_answered(cells, capsys):
    cell = cells["r", "zeroshot"]
    arguments = ["prompt", cell.name, "does </s>", "--configfile", "study.yaml"]
    assert cli.main(arguments) == 0
    assert "--- not answered yet" in capsys.readouterr().out
    record = predict(cell)[-1]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("r/zeroshot/nq/bm25/seed0, question mark\n--- prompt: ")
    assert (
        "title: Mill, source: It rained on Monday.\n\nQuestion: What does </s> mean? Answer: The answer is\n" in printed
    )
    assert "--- neighbor 2: p4.2, 16 tokens\ntitle: Mill, sou" in printed
    answered = f"--- answered: {record['prediction']!r}, generated {record['text']!r}\n"
    assert f"--- prompt hash: {record['prompt_hash']}, as in predictions.jsonl\n{answered}" in printed
    assert "--- reference answers: 'the end'" in printed
    assert cli.main(["prompt", cells["g", "zeroshot"].name, "mark", "--configfile", "study.yaml"]) == 0
    assert "; contexts: p4.0, p4.1\n" in capsys.readouterr().out
    assert cli.main([*arguments, "--config", "max_length=54"]) == 0
    printed = capsys.readouterr().out
    assert "tokens of contexts did not fit and were cut" in printed
    assert f"predictions.jsonl has {record['prompt_hash']}: its answer was given to another prompt" in printed


def test_virtual_tokens_are_counted(cells):
    seen = what_was_seen(load_config(STUDY), cells["r", "ptuning"], "mark")
    assert seen.virtual_tokens == 5
    assert (seen.left_padding + seen.virtual_tokens + seen.prompt_tokens) % 8 == 0


def test_code_of_a_models_own_runs_only_where_it_is_trusted(cells, monkeypatch):
    trusted = []
    for name in ("load_config", "load_tokenizer"):
        load = getattr(seeing, name)
        monkeypatch.setattr(seeing, name, lambda path, trust, load=load: [trusted.append(trust), load(path)][1])
    for trust in (False, True):
        models = {**STUDY["models"], "g": {"family": "gpt", "size": "tiny", "hub": "a/b", "trust_remote_code": trust}}
        what_was_seen(load_config({**STUDY, "models": models}), cells["g", "zeroshot"], "mark")
    assert trusted == [False, False, True, True]


def test_a_question_is_found_by_id_or_by_its_text(cells, capsys):
    assert find_question(QUESTIONS, "mark", "f") is find_question(QUESTIONS, "</S>", "f") is QUESTIONS[-1]
    with pytest.raises(DataError, match=r"^f: 4 questions hold 'kept': q0: Who kept \?; q1: .*give an id"):
        find_question(QUESTIONS, "kept", "f")
    with pytest.raises(DataError, match="none of 5 questions has the id or the text 'q9'; it has q0"):
        find_question(QUESTIONS, "q9", "f")
    assert cli.main(["prompt", "g/zeroshot/nq/bm25/seed1", "mark", "--configfile", "study.yaml"]) == 1
    assert "seed 'seed1'" in capsys.readouterr().err
    shutil.rmtree(Paths.of(load_config(STUDY)).model("g"))
    assert cli.main(["prompt", cells["g", "zeroshot"].name, "mark", "--configfile", "study.yaml"]) == 1
    assert "no model there" in capsys.readouterr().err
