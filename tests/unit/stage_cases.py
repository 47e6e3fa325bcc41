"""The stages of one tiny cell behind a few functions, and by hand what they promise.

Tests name what they change as keys of a study's configuration. Each stage is called in one place here:
`Stages.finetune`, `Stages.predict`, `pretrain`. What is done by hand is done one row at a time and shares no code with
the stages, beyond the model itself.
"""

import copy
import json
import math
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from neighbor_cases import write_text_cache
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationMixin, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from retrotune.data.datasets import Example
from retrotune.methods import attach
from retrotune.models import RetroConfig, RetroForCausalLM
from retrotune.models.fetch import write_manifest
from retrotune.models.loading import load_model
from retrotune.prediction.generate import predict_cell
from retrotune.preparing.examples import write_examples
from retrotune.study.cells import Cell
from retrotune.study.config import CorpusEntry, Emphasis, PassageLayout, Recipe, SaveEvery, SizeEntry, load_config
from retrotune.study.resolve import cell_stages
from retrotune.study.stages import PretrainParams, StageParams
from retrotune.training.finetune import finetune_cell
from retrotune.training.planned import PlannedBatches
from retrotune.training.pretrain import pretrain_model

PAD, EOS, CHUNK, RETRIEVED, MAX_NEW = 0, 1, 8, 26, 8
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
IDS = {letter: number for number, letter in enumerate(ALPHABET, start=2)}
# Question, answer and passage, of several lengths and in another order than by length; one answer is too long.
QUESTIONS = {
    "a": ("who rules Kelo", "Dana", "Dana is old."),
    "b": ("who rules", "Kiro Ve", "Kiro has a boat."),
    "c": ("who was it that ruled Ruvo", "Ha", "It rains."),
    "d": ("who rules Tamo", "Velu", "Velu sings in Tamo."),
}
TRAINED = {
    "full": {"kind": "full"},
    "lora": {"kind": "lora", "rank": 2},
    "adapter": {"kind": "adapter", "bottleneck_dim": 3, "dropout": 0.0},
    "ptuning": {"kind": "ptuning", "num_virtual_tokens": 3, "encoder_hidden_size": 6},
}


class Death(BaseException):
    """Ends a stage at once, as kill -9 does."""


class Last(BaseException):
    """Ends a prediction when all its questions are answered."""


def _die_at_last(*_: Any) -> None:
    raise Last


def encode(text: str) -> list[int]:
    """Ids of an ASCII text, one per letter."""
    return [IDS["Ġ" if letter == " " else "Ċ" if letter == "\n" else letter] for letter in text]


def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes as tokens."""
    made = Tokenizer(models.BPE({"<pad>": PAD, "<eos>": EOS, **IDS}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<eos>")


def random_model(kind: str, seed: int = 0) -> Any:
    """A random model with distinct answers: gpt, retro, or a model of transformers' own."""
    torch.manual_seed(seed)
    shape = {
        "vocab_size": len(IDS) + 2, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.3, "pad_token_id": PAD,
        "eos_token_id": EOS,
    }  # fmt: skip
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**shape))
    layers = {"cross_attention_layers": [0, 1] if kind == "retro" else [], "chunk_length": CHUNK}
    return RetroForCausalLM(RetroConfig(**shape, **layers, retrieved_length=RETRIEVED, encoder_num_layers=1))


class Stages:
    """One cell in a folder of its own. `kind` is that of `random_model`, `method` a name in `TRAINED`."""

    def __init__(self, root: Path, kind: str = "gpt", method: str | None = None, **finetuning: Any) -> None:
        self.root, self.kind, self.family = root, kind, "retro" if kind == "retro" else "gpt"
        self.adapter = root / "cell/adapter"
        self.questions = copy.deepcopy(QUESTIONS)
        self.write_model()
        self.config: dict[str, Any] = {
            "study": "tiny",
            "data_root": "somewhere",
            "datasets": {"d": {"reader": "nq", "path": "nq", "max_new_tokens": MAX_NEW}},
            "corpora": {"wiki": {"reader": "text", "path": "wiki"}},
            "chunkings": {"words": {}},
            "retrievers": {"bm25": {"kind": "bm25"}},
            "retrievals": {
                "r": {
                    "retriever": "bm25",
                    "corpus": "wiki",
                    "chunking": "words",
                    "top_k": 2,
                    "gpt": {"num_contexts": 1},
                    "retro": {"num_neighbors": 1},
                }
            },
            "models": {"x": {"family": self.family, "size": "tiny", "path": "somewhere"}},
            "methods": {"m": dict(TRAINED[method]) if method else {"kind": "zeroshot"}},
            "finetuning": {"batch_size": 2, "max_steps": 4, "warmup_steps": 1, **finetuning},
            "max_length": 400,
            "evaluation": {"batch_size": 1},
            "grid": {"retrievals": ["r"]},
        }
        self.seed = 0

    def copy(self, root: Path, with_work: bool = True) -> "Stages":
        """The same cell in another folder, with what it has trained and, if wanted, what it keeps for another run."""
        other = copy.deepcopy(self)
        other.root, other.adapter = root, root / "cell/adapter"
        for name in ("cell", "work") if with_work else ("cell",):
            if (self.root / name).exists():
                shutil.copytree(self.root / name, root / name)
        return other

    def write_model(self, seed: int = 0) -> None:
        """The base model as its rule leaves it."""
        self.model_dir = self.root / "model"
        random_model(self.kind, seed).save_pretrained(self.model_dir)
        tokenizer().save_pretrained(self.model_dir)
        write_manifest(self.model_dir, {"path": "made here"})

    def set(self, key: str, value: Any) -> None:
        """Change one value of the configuration, `seed` included, by its path (`finetuning.epochs`)."""
        if key == "seed":
            self.seed = value
            return
        *path, last = key.split(".")
        entry = self.config
        for name in path:
            entry = entry.setdefault(name, {})
        entry[last] = value

    @property
    def method(self) -> Any:
        """The entry of the cell's method."""
        return load_config(self.config).methods["m"]

    def trainable(self) -> Any:
        """The model as training starts from it."""
        model = load_model(self.model_dir)
        torch.manual_seed(self.seed)
        return attach(model, self.method).train()

    @property
    def cell(self) -> Cell:
        """The cell's coordinates."""
        return Cell("x", "m", "d", "r", self.seed)

    def _files(self, stage: str) -> tuple[StageParams, Path, Path]:
        """(what the stage uses, the cell's questions, their neighbors), as they are now."""
        examples, neighbors = self.root / "questions.parquet", self.root / "neighbors.parquet"
        asked = [Example(name, text, (answer,)) for name, (text, answer, _) in self.questions.items()]
        write_examples(examples, asked, with_answer=stage == "finetune_cell")
        rows = [
            {"question_id": name, "rank": rank, "passage_id": f"{name}{rank}", "title": "T", "text": text, "score": 1.0}
            for name, (_, _, passage) in self.questions.items()
            for rank, text in enumerate((passage, "Never used."))
        ]
        pd.DataFrame(rows).to_parquet(neighbors)
        return cell_stages(load_config(self.config), self.cell)[stage], examples, neighbors

    def finetune(self, stop_at: int | None = None) -> list[tuple[int, list[int]]]:
        """Train: place and example numbers of each micro-batch that was seen.

        `stop_at`: with a checkpoint after each step; the process dies when it asks for the micro-batch at that place,
        one ahead of what it trains on.
        """
        params, examples, neighbors = self._files("finetune_cell")
        seen: list[tuple[int, list[int]]] = []

        def run() -> None:
            finetune_cell(
                params, self.cell, self.model_dir, examples, neighbors, self.root / "cell", self.root / "work",
                save_every=None if stop_at is None else SaveEvery(steps=1),
            )  # fmt: skip

        _watching_batches(run, seen, stop_at)
        return seen

    def log(self) -> list[dict[str, Any]]:
        """Lines of the training log."""
        return read_log(self.root / "cell")

    def predict(self, stop_at: int | None = None, finish: bool = False) -> tuple[dict[str, str], int]:
        """(answers by question, number of questions put to the model).

        `stop_at`: the process dies in the batch of that number, counted from 0. Unless it is to `finish`, it dies when
        all questions are answered, and what is kept for another run stays.
        """
        params, examples, neighbors = self._files("predict_cell")
        adapter = None if self.method.kind == "zeroshot" else self.adapter
        out, asked, original = self.root / "cell/predictions.jsonl", [], GenerationMixin.generate

        def generate(model: Any, *args: Any, **kwargs: Any) -> Any:
            if len(asked) == stop_at:
                raise Death
            asked.append(len(kwargs["input_ids"]))
            return original(model, *args, **kwargs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(GenerationMixin, "generate", generate)
            if not finish:
                patch.setattr("retrotune.prediction.generate.write_json", _die_at_last)
            with nullcontext() if finish else pytest.raises(Last):
                predict_cell(
                    params, self.cell, self.model_dir, adapter, examples, neighbors, out,
                    self.root / "cell/predict.json", self.root / "work",
                )  # fmt: skip
        lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        return {line["question_id"]: line["prediction"] for line in lines}, sum(asked)

    @property
    def kept(self) -> Path:
        """The file of answers that another run may use."""
        [file] = (path for path in self.root.glob("work/**/*.jsonl") if path.is_file())
        return file

    def row(self, name: str, with_answer: bool = True) -> "Row":
        """One question by hand, padded on its left as its family wants it."""
        question, answer, passage = self.questions[name]
        context = f"title: T, source: {passage}\n\n" if self.family == "gpt" else ""
        prompt = encode(f"{context}Question: {question}? Answer: The answer is")
        target = [*encode(f" {answer}"), EOS][:MAX_NEW] if with_answer else []
        virtual = getattr(self.method, "num_virtual_tokens", 0)
        padding = -(virtual + len(prompt)) % CHUNK if self.family == "retro" else 0
        ids = [PAD] * (padding + virtual) + prompt + target
        first = padding + virtual + len(prompt)
        neighbor = encode(f"title: T, source: {passage}")[:RETRIEVED] if self.family == "retro" else []
        return Row(ids, padding, dict.fromkeys(range(first, len(ids)), 1.0), neighbor)


def _watching_batches(run: Any, seen: list[tuple[int, list[int]]], stop_at: int | None = None) -> None:
    original = PlannedBatches.__getitem__

    def watched(batches: PlannedBatches, place: int) -> Any:
        if place == stop_at:
            raise Death
        seen.append((place, batches.plan[place]))
        return original(batches, place)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PlannedBatches, "__getitem__", watched)
        if stop_at is None:
            run()
        else:
            with pytest.raises(Death):
                run()


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    """What lies in the safetensors files of a folder."""
    return {name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()}


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Lines of a training log."""
    return [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]


# pretraining ---------------------------------------------------------------------------------------------------------
DOCUMENTS = ("Q: who? The answer is Dana.", "Q: who else? The answer is Kiro or Velu.", "Q? The answer is Ha.")
RECIPE = Recipe(
    neighbors_per="document", sequence_length=80, batch_size=3, steps=4,
    learning_rate=0.01, weight_decay=0.1, warmup_steps=1, emphasis=Emphasis(other_weight=0.25),
)  # fmt: skip
SIZE = SizeEntry(
    num_layers=2, hidden_size=16, num_heads=2, ffn_size=24, max_length=96, chunk_length=CHUNK,
    retrieved_length=RETRIEVED, cross_attention_layers=(0, 1), encoder_layers=1,
)  # fmt: skip


def pretrain(
    root: Path, family: str, out: str = "base", stop_at: int | None = None, documents: Sequence[str] = DOCUMENTS,
    **changes: Any,
) -> list[tuple[int, list[int]]]:  # fmt: skip
    """Train a base model in `root`/`out`: place and document numbers of each batch that was seen."""
    corpora = {"quizzes": CorpusEntry(reader="text", path="quizzes.txt", documents="paragraph")}
    (root / "quizzes.txt").write_text("\n\n".join(documents), encoding="utf-8")
    tokenizer().backend_tokenizer.save(str(root / "tokenizer.json"))
    found = [(f"quizzes/quizzes.txt#{number}", 0, str(number), "T", f"N{number}.") for number in range(len(documents))]
    neighbors = write_text_cache(root / "neighbors.json", found)
    params = PretrainParams(
        family=family,
        size=SIZE,
        recipe=RECIPE.model_copy(update=changes),
        layout=PassageLayout(num_neighbors=1) if family == "retro" else PassageLayout(),
        corpora=corpora,
    )
    seen: list[tuple[int, list[int]]] = []
    _watching_batches(
        lambda: pretrain_model(
            params, root, root / "tokenizer.json",
            neighbors if family == "retro" else None, root / out, root / f"{out}-work",
            save_every=None if stop_at is None else SaveEvery(steps=1),
        ),
        seen,
        stop_at,
    )  # fmt: skip
    return seen


def document_row(number: int, family: str) -> "Row":
    """A document by hand: what follows the cue weighs one, and begins on a chunk border for RETRO."""
    before, cue, after = DOCUMENTS[number].partition(" The answer is")
    ids = [*encode(before + cue + after), EOS]
    answer = len(before + cue)
    padding = -answer % CHUNK if family == "retro" else 0
    weights = {padding + place: 1.0 if place >= answer else 0.25 for place in range(1, len(ids))}
    if padding:
        weights[padding] = 0.25  # what the last token of the padding predicts
    neighbor = encode(f"title: T, source: N{number}.")[:RETRIEVED] if family == "retro" else []
    return Row([PAD] * padding + ids, padding, weights, neighbor)


# by hand -------------------------------------------------------------------------------------------------------------
@dataclass
class Row:
    """One sequence: its ids, how many of them are padding, weights by place of what is predicted, and its neighbor."""

    ids: list[int]
    padding: int
    weights: dict[int, float]
    neighbor: list[int]

    def logits(self, model: Any) -> torch.Tensor:
        """Logits [T, V] of the whole row, alone."""
        given = {"input_ids": torch.tensor([self.ids])}
        given["attention_mask"] = torch.ones_like(given["input_ids"])
        given["attention_mask"][:, : self.padding] = 0
        if self.neighbor:
            given["neighbor_ids"] = torch.tensor([[self.neighbor]])
            given["neighbor_mask"] = torch.ones_like(given["neighbor_ids"])
        return model(**given).logits[0]


def loss_by_hand(model: Any, rows: Iterable[Row]) -> torch.Tensor:
    """Weighted mean of minus log probability over everything that the rows predict."""
    total, weight = torch.zeros(()), 0.0
    for row in rows:
        logits = row.logits(model)
        for place, share in row.weights.items():
            total = total - share * torch.log_softmax(logits[place - 1], -1)[row.ids[place]]
            weight += share
    return total / weight


def rates_by_hand(peak: float, steps: int, warmup: int, final: float) -> list[float]:
    """The rate of each step: a straight line up, then half a cosine down, whose end lies one step after the last."""
    return [
        peak * (step + 1) / (warmup + 1)
        if step < warmup
        else peak * (final + (1 - final) * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2)
        for step in range(steps)
    ]


def train_by_hand(
    model: Any, steps: Sequence[Sequence[Row]], rates: Sequence[float], decay: float, betas: tuple[float, float],
    clip: float,
) -> Iterator[tuple[float, float]]:  # fmt: skip
    """AdamW with clipping, in place: (loss, norm of the gradient before clipping) of each step."""
    values = [value for value in model.parameters() if value.requires_grad]
    firsts, seconds = ([torch.zeros_like(value) for value in values] for _ in range(2))
    for count, (rows, rate) in enumerate(zip(steps, rates, strict=True), start=1):
        loss = loss_by_hand(model, rows)
        found = torch.autograd.grad(loss, values, allow_unused=True)
        slopes = [
            torch.zeros_like(value) if slope is None else slope for value, slope in zip(values, found, strict=True)
        ]
        norm = math.sqrt(sum(float((slope.double() ** 2).sum()) for slope in slopes))
        with torch.no_grad():
            for value, slope, first, second in zip(values, slopes, firsts, seconds, strict=True):
                slope = slope * min(1.0, clip / norm)
                first.mul_(betas[0]).add_((1 - betas[0]) * slope)
                second.mul_(betas[1]).add_((1 - betas[1]) * slope**2)
                value.mul_(1 - rate * (decay if value.ndim >= 2 else 0.0))
                mean, spread = first / (1 - betas[0] ** count), second / (1 - betas[1] ** count)
                value.sub_(rate * mean / (spread.sqrt() + 1e-8))
        yield loss.item(), norm


@torch.no_grad()
def answer_by_hand(model: Any, row: Row) -> str:
    """A greedy continuation, each token from a pass of its own over the whole row."""
    row, start = copy.deepcopy(row), len(row.ids)
    for _ in range(MAX_NEW):
        row.ids.append(int(row.logits(model)[-1].argmax()))
        if row.ids[-1] == EOS:
            break
    return str(tokenizer().decode(row.ids[start:], skip_special_tokens=True))


def nothing(stages):
    """A change that changes nothing."""


def setting(key, value):
    """The change that declares `value` for `key`."""

    def change(stages):
        stages.set(key, value)

    change.__name__ = f"{key}={value}"
    return change
