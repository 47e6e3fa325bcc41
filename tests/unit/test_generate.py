"""Prediction of a cell with tiny random models: independence of batches, resuming, and what is recorded."""

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from retrotune.data.datasets import SPECS, Example
from retrotune.data.datasets.base import Reference
from retrotune.data.scores import parts_of
from retrotune.errors import DataError, ModelError
from retrotune.methods import attach, save_trained
from retrotune.models import RetroConfig, RetroForCausalLM
from retrotune.models.loading import load_model
from retrotune.prediction import generate
from retrotune.prediction.generate import predict_cell
from retrotune.preparing.examples import write_examples, write_references
from retrotune.runtime.files import read_json, read_jsonl, sha256, write_json, write_parquet
from retrotune.scoring.metrics import score_prediction
from retrotune.scoring.score import score_cell
from retrotune.study.cells import Cell
from retrotune.study.config import load_config
from retrotune.study.resolve import cell_stages
from retrotune.study.stages import PredictParams, ScoreParams

TEXT = "Question: Who kept the old mill by the river? Answer: The answer is Tamo. title: source: It rained on Monday.\n"
EXAMPLES = [
    Example(f"q{n}", "Who kept " + "the old mill by the river " * (n % 4) + "?", ("Tamo", f"answer {n}"))
    for n in range(9)
]


def train_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=["<pad>", "<eos>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def save_model(model: PreTrainedModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    train_tokenizer().save_pretrained(folder)
    write_json(folder / "manifest.json", {"num_parameters": model.num_parameters()})
    return folder


@pytest.fixture(scope="module")
def retro_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random RETRO with short chunks."""
    tokenizer = train_tokenizer()
    torch.manual_seed(6)
    config = RetroConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        chunk_length=8,
        retrieved_length=16,
        cross_attention_layers=[0, 1],
        initializer_range=0.5,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return save_model(RetroForCausalLM(config), tmp_path_factory.mktemp("retro"))


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GPT of transformers' own, whose generation config asks for sampling and penalties."""
    tokenizer = train_tokenizer()
    torch.manual_seed(5)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=256,
            initializer_range=0.5,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    model.generation_config.update(do_sample=True, temperature=3.0, repetition_penalty=5.0)
    return save_model(model, tmp_path_factory.mktemp("model"))


class Study:
    """Files of one cell, and its stages with the paths filled in."""

    def __init__(self, root: Path, model_dir: Path, family: str = "gpt") -> None:
        self.root, self.model_dir, self.family = root, model_dir, family
        self.examples, self.neighbors = root / "test.parquet", root / "neighbors.parquet"
        self.references = root / "test.references.parquet"
        write_examples(self.examples, EXAMPLES, with_answer=False)
        write_references(self.references, EXAMPLES)
        rows = [
            {
                "question_id": example.question_id,
                "rank": rank,
                "passage_id": f"p{number}.{rank}",
                "title": "Mill",
                "text": "It rained on Monday. " * (rank + 1),
                "score": 1.0 - rank,
            }
            for number, example in enumerate(EXAMPLES)
            for rank in range(3)
        ]
        write_parquet(self.neighbors, pd.DataFrame(rows))
        self.out, self.summary = root / "predictions.jsonl", root / "predict.json"
        self.scores, self.metrics = root / "scores.jsonl", root / "metrics.json"
        self.partial = root / "work" / generate.ANSWERS

    def stages(self, method: str = "zeroshot", batch_size: int = 4, **model: Any) -> tuple[Cell, dict[str, Any]]:
        """The cell and what its stages use; `model` adds to the entry of its model."""
        source = {"family": self.family, "size": "tiny", "path": str(self.model_dir)}
        config = load_config(
            {
                "study": "tiny",
                "data_root": "somewhere",
                "datasets": {"nq": {"reader": "nq", "path": "nq", "max_new_tokens": 12}},
                "corpora": {"wiki": {"reader": "text", "path": "wiki"}},
                "chunkings": {"words100": {}},
                "retrievers": {"bm25": {"kind": "bm25"}},
                "retrievals": {
                    "bm25": {
                        "retriever": "bm25",
                        "corpus": "wiki",
                        "chunking": "words100",
                        "top_k": 3,
                        "gpt": {"num_contexts": 2},
                        "retro": {"num_contexts": 1, "num_neighbors": 2},
                    }
                },
                "models": {f"{self.family}-tiny": {**source, **model}},
                "methods": {
                    "zeroshot": {"kind": "zeroshot"},
                    "lora": {"kind": "lora", "rank": 2},
                    "ptuning": {"kind": "ptuning", "num_virtual_tokens": 5, "encoder_hidden_size": 8},
                },
                "max_length": 128,
                "evaluation": {"batch_size": batch_size},
                "grid": {"retrievals": ["bm25"]},
            }
        )
        cell = Cell(f"{self.family}-tiny", method, "nq", "bm25", 0)
        return cell, cell_stages(config, cell)

    def cell(self, method: str = "zeroshot", batch_size: int = 4, **model: Any) -> PredictParams:
        params: PredictParams = self.stages(method, batch_size, **model)[1]["predict_cell"]
        return params

    def predict(self, params: PredictParams, adapter: Path | None = None) -> list[Any]:
        cell, _ = self.stages()
        arguments = (params, cell, self.model_dir, adapter, self.examples, self.neighbors)
        predict_cell(*arguments, self.out, self.summary, self.root / "work")
        return [record for _, record in read_jsonl(self.out)]

    def score(self, **changes: Any) -> Any:
        cell, used = self.stages()
        params: ScoreParams = used["score_cell"].model_copy(update=changes)
        inputs = (self.out, self.summary, self.references, None)
        score_cell(params, cell, *inputs, self.scores, self.metrics)
        return read_json(self.metrics)


@pytest.fixture
def study(tmp_path: Path, model_dir: Path) -> Study:
    return Study(tmp_path, model_dir)


@pytest.mark.parametrize("method", ["zeroshot", "lora", "ptuning"])
@pytest.mark.parametrize("family", ["gpt", "retro"])
def test_predictions_do_not_depend_on_the_batch(
    tmp_path: Path, model_dir: Path, retro_dir: Path, family: str, method: str
) -> None:
    study = Study(tmp_path, model_dir if family == "gpt" else retro_dir, family)
    adapter = None
    if method != "zeroshot":
        torch.manual_seed(1)
        trained = attach(load_model(study.model_dir), study.stages(method)[1]["finetune_cell"].method)
        for parameter in trained.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
        adapter = study.root / "adapter"
        save_trained(trained, adapter)
    alone = study.predict(study.cell(method, batch_size=1), adapter)
    together = study.predict(study.cell(method, batch_size=8), adapter)
    assert alone == together
    assert len({record["text"] for record in alone}) > 1
    assert [len(record["neighbor_ids"]) for record in alone] == [2 if family == "retro" else 0] * 9
    assert read_json(study.summary)["retrieval_gate"] == (1.0 if family == "retro" else None)


def test_what_a_line_records(study: Study) -> None:
    records = study.predict(study.cell())
    assert [record["question_id"] for record in records] == [example.question_id for example in EXAMPLES]
    template = SPECS["nq"].prompt_of("base")
    for number, record in enumerate(records):
        assert record["context_ids"] == [f"p{number}.0", f"p{number}.1"]
        assert record["neighbor_ids"] == []
        assert record["prediction"] == template.postprocess(record["text"])
    assert len({record["prompt_hash"] for record in records}) == 4  # prompts repeat, passages' ids are not part of them
    said = {"question_id", "question", "prediction", "text", "context_ids", "neighbor_ids", "prompt_hash"}
    assert all(
        record.keys() == said | {"num_prompt_tokens", "num_truncated_tokens", "num_new_tokens"} for record in records
    )
    summary = read_json(study.summary)
    assert summary["params"] == study.cell().recorded()
    assert summary["num_questions"] == 9
    assert summary["prompt_tokens"] == sum(record["num_prompt_tokens"] for record in records)
    assert 9 <= summary["generated_tokens"] <= 9 * 12
    assert summary["generated_tokens"] == sum(record["num_new_tokens"] for record in records)
    assert summary["peak_memory_bytes"] > 1e7


def test_a_model_of_the_other_family_is_refused(study: Study) -> None:
    params = study.cell()
    other = params.prompting.model_copy(update={"family": "retro"})
    with pytest.raises(
        ModelError, match="is of family retro, but its folder holds a llama model with no cross-attention"
    ):
        study.predict(params.model_copy(update={"prompting": other}))


def test_contexts_are_cut_for_the_window_and_counted(study: Study) -> None:
    params = study.cell()
    short = params.prompting.model_copy(update={"max_length": 72})
    records = study.predict(params.model_copy(update={"prompting": short}))
    assert any(record["num_truncated_tokens"] for record in records)
    assert read_json(study.summary)["num_truncated_questions"] == sum(r["num_truncated_tokens"] > 0 for r in records)
    assert all(record["num_prompt_tokens"] <= 72 - 12 for record in records)


def test_the_checkpoints_own_sampling_is_ignored(study: Study, model_dir: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    model = LlamaForCausalLM.from_pretrained(model_dir)
    model.generation_config.update(do_sample=False, temperature=1.0, repetition_penalty=1.0)
    other = Study(tmp_path, save_model(model, plain))
    assert study.predict(study.cell()) == other.predict(other.cell())


def test_all_end_tokens_of_a_checkpoint_end_an_answer(model_dir: Path, tmp_path: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(model_dir)
    model.generation_config.eos_token_id = list(range(2, model.config.vocab_size))
    ending = Study(tmp_path, save_model(model, tmp_path / "ending"))
    ending.predict(ending.cell())
    assert read_json(ending.summary)["generated_tokens"] == 9


def test_an_answer_is_what_all_tokens_would_give(
    tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LlamaForCausalLM.from_pretrained(model_dir)
    with torch.no_grad():  # a line break settles an answer: one is generated now and then
        model.lm_head.weight[train_tokenizer()("\n")["input_ids"][0]] *= 2
    study = Study(tmp_path, save_model(model, tmp_path / "model"))
    settled, some = study.predict(study.cell()), read_json(study.summary)["generated_tokens"]
    monkeypatch.setattr(generate._Settled, "__call__", lambda self, ids, scores: torch.zeros(len(ids)).bool())
    whole, every = study.predict(study.cell()), read_json(study.summary)["generated_tokens"]
    assert [one["prediction"] for one in settled] == [one["prediction"] for one in whole]
    assert all(one["text"].startswith(other["text"]) for one, other in zip(whole, settled, strict=True))
    assert 9 < some < every


def test_weights_are_held_in_the_precision_of_the_study(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    held, load = [], generate.load_model
    monkeypatch.setattr(generate, "load_model", lambda *given, **more: [held.append(given[1]), load(*given, **more)][1])
    for precision in ("float32", "bfloat16"):
        study.predict(study.cell(precision=precision))
    assert held == [torch.float32, torch.bfloat16]


def test_torch_gets_the_threads_that_are_asked_for(study: Study) -> None:
    before, (cell, stages) = torch.get_num_threads(), study.stages()
    try:
        files = (study.model_dir, None, study.examples, study.neighbors, study.out, study.summary, study.root / "work")
        predict_cell(stages["predict_cell"], cell, *files, threads=before + 1)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of questions that were really put to the model, one per batch."""
    counts: list[int] = []
    original = generate._Generator.__call__

    def counted(self: Any, batch: dict[str, torch.Tensor]) -> Any:
        counts.append(len(batch["input_ids"]))
        return original(self, batch)

    monkeypatch.setattr(generate._Generator, "__call__", counted)
    return counts


def interrupted(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run until the third batch of four, with two batches kept."""
    study.out.unlink(missing_ok=True)
    batches, original = iter(range(2)), generate._Generator.__call__

    def until_the_third(self: Any, batch: dict[str, torch.Tensor]) -> Any:
        if next(batches, None) is None:
            raise KeyboardInterrupt
        return original(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(generate._Generator, "__call__", until_the_third)
        with pytest.raises(KeyboardInterrupt):
            study.predict(study.cell())
    assert not study.out.exists()


def test_an_interrupted_run_goes_on_where_it_stopped(
    study: Study, monkeypatch: pytest.MonkeyPatch, asked: list[int]
) -> None:
    whole = study.predict(study.cell())
    interrupted(study, monkeypatch)
    asked.clear()
    assert study.predict(study.cell(batch_size=2)) == whole  # another batch size does not invalidate answers
    assert asked == [1]


def test_answers_are_kept_until_all_questions_are_answered(
    study: Study, monkeypatch: pytest.MonkeyPatch, asked: list[int]
) -> None:
    interrupted(study, monkeypatch)
    assert study.partial.exists()
    whole = study.predict(study.cell())
    assert not study.partial.exists()
    asked.clear()
    assert study.predict(study.cell()) == whole, "once it is done, a prediction that is asked for is made anew"
    assert sum(asked) == 9


def test_a_torn_line_costs_one_batch(study: Study, monkeypatch: pytest.MonkeyPatch, asked: list[int]) -> None:
    whole = study.predict(study.cell())
    interrupted(study, monkeypatch)
    study.partial.write_bytes(study.partial.read_bytes()[:-30])
    asked.clear()
    assert study.predict(study.cell()) == whole
    assert asked == [4, 1]  # batches as in an uninterrupted run, so that rounding is the same


def test_answers_of_other_values_or_prompts_are_not_used(
    study: Study, monkeypatch: pytest.MonkeyPatch, asked: list[int]
) -> None:
    interrupted(study, monkeypatch)
    asked.clear()
    study.predict(study.cell(precision="bfloat16"))
    assert sum(asked) == 9
    interrupted(study, monkeypatch)
    asked.clear()
    changed = [Example("q0", "Is it another question?", ("Tamo",)), *EXAMPLES[1:]]
    write_examples(study.examples, changed, with_answer=False)
    records = study.predict(study.cell())
    assert records[0]["question"] == "Is it another question?"
    assert sum(asked) <= 5  # the question that was left, and the batch of the one that changed


def test_answers_of_other_weights_are_not_used(
    tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch, asked: list[int]
) -> None:
    study = Study(tmp_path, Path(shutil.copytree(model_dir, tmp_path / "model")))
    interrupted(study, monkeypatch)
    write_json(study.model_dir / "manifest.json", {"num_parameters": 1, "weights_sha256": {"model.safetensors": "new"}})
    asked.clear()
    study.predict(study.cell())
    assert sum(asked) == 9


def test_answers_are_scored_against_the_references_of_now(study: Study, asked: list[int]) -> None:
    """No question is asked again for it."""
    study.predict(study.cell())
    asked.clear()
    for answers in (("Dana",), ("Tamo", "Dana")):
        examples = [Example(example.question_id, example.question, answers) for example in EXAMPLES]
        write_references(study.references, examples)
        study.score()
        predicted = {record["question_id"]: record["prediction"] for _, record in read_jsonl(study.out)}
        scores = {record["question_id"]: record["scores"] for _, record in read_jsonl(study.scores)}
        expected = {
            name: score_prediction(text, Reference(name, None, answers), parts_of(SPECS["nq"].metrics))
            for name, text in predicted.items()
        }
        assert scores == expected
    assert asked == []


def test_no_questions_is_an_error(study: Study) -> None:
    write_examples(study.examples, [], with_answer=False)
    with pytest.raises(DataError, match="no test questions"):
        study.predict(study.cell())


class Settling(generate._Generator):
    """The rule of settled answers without a model."""

    def __init__(self, reader: str, variant: str) -> None:
        self.postprocess = SPECS[reader].prompt_of(variant).postprocess


@pytest.mark.parametrize(
    ("reader", "variant", "text", "settled"),
    [
        ("nq", "base", " Tamo", False),
        ("nq", "base", " Tamo\n", True),
        ("nq", "base", "\n\n", False),
        ("nq", "base", " Tamo.", False),  # could go on as "Tamo.5"
        ("nq", "base", " Tamo. ", True),
        ("nq", "instruct", " Tamo. ", False),  # "The answer is" may still come
        ("nq", "instruct", " The answer is Tamo. ", True),
        ("nq", "instruct", " Tamo\n\n", True),
        ("quality", "base", " He left. ", False),
        ("quality", "base", " He left. \n", True),
    ],
)
def test_settled_answers(reader: str, variant: str, text: str, settled: bool) -> None:
    assert Settling(reader, variant).is_settled(text) is settled


PIECES = st.sampled_from(
    ["the answer is", "The answer is:", "Answer:", ". ", ".", "\n", "\n\n", " ", "x", "3.5", "is", "the"]
)


@given(
    st.sampled_from(sorted(SPECS)),
    st.sampled_from(["base", "instruct"]),
    st.lists(PIECES, max_size=6).map("".join),
    st.lists(PIECES, max_size=4).map("".join),
)
def test_no_continuation_changes_a_settled_answer(reader: str, variant: str, text: str, continuation: str) -> None:
    settling = Settling(reader, variant)
    if settling.is_settled(text):
        assert settling.postprocess(text + continuation) == settling.postprocess(text)


def test_metrics_of_a_cell(study: Study) -> None:
    """What scoring takes over from prediction."""
    study.predict(study.cell())
    found = study.score()
    assert found["cell"] == {"model": "gpt-tiny", "method": "zeroshot", "dataset": "nq", "retrieval": "bm25", "seed": 0}
    assert found["model"]["num_parameters"] == read_json(study.model_dir / "manifest.json")["num_parameters"]
    files = {"examples": study.examples, "neighbors": study.neighbors, "model": study.model_dir / "manifest.json"}
    files |= {"predictions": study.out, "references": study.references, "scores": study.scores}
    assert found["inputs"] == {name: sha256(path) for name, path in files.items()}
