"""Greedy answers to a cell's test questions, resumable, with everything that says how each came about.

An answer is generated until it is settled: until no continuation could change what post-processing makes of it. Each
question's result depends on its own prompt only, not on the batch it happens to be in.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from retrotune.data.datasets import Example, Passage
from retrotune.errors import DataError
from retrotune.methods import load_trained
from retrotune.models.loading import (
    gpu_map,
    input_digests,
    load_model,
    load_tokenizer,
    model_facts,
    reads_neighbors,
)
from retrotune.preparing.examples import load_examples
from retrotune.prompting.assemble import special_ids
from retrotune.prompting.examples import EncodedExample, select_passages
from retrotune.retrieval.caches.questions import load_neighbors
from retrotune.runtime import interruption
from retrotune.runtime.devices import device_name, torch_device, torch_facts
from retrotune.runtime.energy import EnergyMeter
from retrotune.runtime.files import read_jsonl, sha256, sha256_text, write_json, write_jsonl
from retrotune.runtime.log import duration, log_configuration, logger, progress
from retrotune.study.cells import Cell
from retrotune.study.config import PassageLayout
from retrotune.study.records import made
from retrotune.study.stages import PredictParams
from retrotune.training.batches import cell_batching
from retrotune.training.loop import peak_memory_bytes

ANSWERS = "partial.jsonl"
"""In a cell's work folder: answers of a prediction that was interrupted."""
_PROBES = ("x", " y", "\n\nz", " the answer is w")
"""Continuations that between them reach every rule of `Template.postprocess`."""


def predict_cell(
    params: PredictParams,
    cell: Cell,
    model_dir: str | Path,
    adapter_dir: str | Path | None,
    examples: str | Path,
    neighbors: str | Path | None,
    out: str | Path,
    out_summary: str | Path,
    work_dir: str | Path,
    threads: int | None = None,
) -> None:
    """Answer a cell's test questions: a line each in `out` (predictions.jsonl), what it took in `out_summary` (JSON).

    Lines come in the order of `examples` and say what the model said, not how good it is. `adapter_dir` is None for
    zeroshot, `neighbors` for a cell without retrieval. Finished batches are kept in `work_dir` until all questions are
    answered, and used again if neither what the stage uses, the weights nor the questions' prompts have changed; a
    signal stops between two batches (`Interrupted`). `threads` are torch's on a CPU (None: as set outside). A model
    that one GPU cannot hold is spread over all that are in sight. Raises `DataError` if there are no questions.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    device, base, prompting = torch_device(), params.base, params.prompting
    lengths = {name: getattr(prompting, name) for name in ("max_length", "max_new_tokens")}
    of_torch = torch_facts(device, base.precision)
    log_configuration({**vars(cell), **lengths, "batch_size": params.batch_size, **base.given(), **of_torch})
    questions = load_examples(examples)
    if not questions:
        raise DataError(f"{examples}: no test questions; check max_test and the dataset's files")
    passages = load_neighbors(neighbors) if neighbors is not None else {}
    tokenizer = load_tokenizer(model_dir, base.trust_remote_code)
    dtype = torch.bfloat16 if base.precision == "bfloat16" else torch.float32
    device_map = gpu_map(model_dir, dtype, base.trust_remote_code)
    model = load_model(
        model_dir,
        dtype,
        device,
        base.retrieval_gate,
        device_map=device_map,
        trust_remote_code=base.trust_remote_code,
    )
    if adapter_dir is not None:
        model = load_trained(model, adapter_dir)
    if device_map is None:
        model.to(device)
    model.eval()

    encoder, collator = cell_batching(prompting, cell.model, model.config, tokenizer)
    encoded = encoder.encode_all(questions, passages, with_answer=False)
    hashes = [item.prompt_hash for item in encoded]
    store = _Partial(Path(work_dir) / ANSWERS, _identity(params, model_dir, adapter_dir))
    done = store.read({q.question_id: prompt for q, prompt in zip(questions, hashes, strict=True)})
    # A batch is answered whole, as in a run that was not interrupted: rounding depends on a batch's shape.
    batches = [
        batch
        for batch in _batches(encoded, params.batch_size)
        if any(questions[place].question_id not in done for place in batch)
    ]
    if done:
        logger.info("%s: %d of %d answers from an interrupted run", cell.name, len(done), len(questions))

    postprocess = encoder.template.postprocess
    gpus = sorted({weight.device.index for weight in model.parameters() if weight.device.type == "cuda"})
    meter = EnergyMeter(gpus)
    answer = _Generator(model, tokenizer, encoder.max_new_tokens, postprocess)
    with interruption.deferred():
        for batch in progress(batches, "questions answered", sum(map(len, batches)), size=len):
            start, before = time.monotonic(), meter.joules
            texts, counts = answer(collator.prompts([encoded[place] for place in batch]))
            seconds, after = (time.monotonic() - start) / len(batch), meter.joules
            joules = None if before is None or after is None else (after - before) / len(batch)
            answered = [
                Answer(questions[place].question_id, hashes[place], text, count, seconds, joules)
                for place, text, count in zip(batch, texts, counts, strict=True)
            ]
            store.append(answered)
            done.update((entry.question_id, entry) for entry in answered)
            interruption.stop_if_requested(f"{len(done)} of {len(questions)} answers are kept in {store.path}")

    answers = [done[question.question_id] for question in questions]
    records = [
        _record(question, passages.get(question.question_id, ()), prompting.layout, item, entry, postprocess)
        for question, item, entry in zip(questions, encoded, answers, strict=True)
    ]
    write_jsonl(out, records)
    seconds = sum(entry.seconds for entry in answers)
    measured = [entry.joules for entry in answers if entry.joules is not None]
    generated = sum(entry.generated_tokens for entry in answers)
    logger.info("answered %d questions with %d tokens in %s", len(answers), generated, duration(seconds))
    write_json(
        out_summary,
        {
            "num_questions": len(answers),
            "seconds": seconds,
            "prompt_tokens": sum(len(item.prompt_ids) for item in encoded),
            "generated_tokens": generated,
            "num_truncated_questions": sum(item.truncated > 0 for item in encoded),
            "num_truncated_tokens": sum(item.truncated for item in encoded),
            "peak_memory_bytes": peak_memory_bytes(device),
            "energy_joules": sum(measured) if len(measured) == len(answers) else None,
            "num_devices": max(1, len(gpus)),
            "retrieval_gate": model.config.retrieval_gate if reads_neighbors(model.config) else None,
            "device": device_name(device),
            "model": model_facts(model_dir),
            "inputs": input_digests(model_dir, examples, neighbors),
            "made": made(),
            "params": params.recorded(),
        },
    )
    store.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Answer:
    """What generation gave for one question, as kept for a run that is interrupted."""

    question_id: str
    prompt_hash: str
    text: str
    generated_tokens: int
    seconds: float
    joules: float | None = None


def _record(
    question: Example,
    passages: Sequence[Passage],
    layout: PassageLayout,
    encoded: EncodedExample,
    answer: Answer,
    postprocess: Callable[[str], str],
) -> dict[str, Any]:
    """One question's line of predictions.jsonl."""
    contexts, neighbors = select_passages(passages, layout, question.question_id, may_be_fewer=True)
    return {
        "question_id": question.question_id,
        "question": question.question,
        "prediction": postprocess(answer.text),
        "text": answer.text,
        "context_ids": [passage.passage_id for passage in contexts],
        "neighbor_ids": [passage.passage_id for passage in neighbors],
        "prompt_hash": answer.prompt_hash,
        "num_prompt_tokens": len(encoded.prompt_ids),
        "num_truncated_tokens": encoded.truncated,
        "num_new_tokens": answer.generated_tokens,
    }


class _Generator:
    """Greedy generation of settled answers."""

    def __init__(self, model: Any, tokenizer: Any, max_new_tokens: int, postprocess: Callable[[str], str]) -> None:
        self.model, self.tokenizer, self.postprocess = model, tokenizer, postprocess
        pad_id, eos_id = special_ids(tokenizer)
        own = getattr(model.generation_config, "eos_token_id", None)
        self.eos_ids = sorted({eos_id, *(own if isinstance(own, list) else [own] if own is not None else [])})
        # In place of the checkpoint's own: hub models bring sampling and repetition penalties along.
        model.generation_config = GenerationConfig(
            do_sample=False, max_new_tokens=max_new_tokens, pad_token_id=pad_id, eos_token_id=self.eos_ids
        )

    @torch.inference_mode()
    def __call__(self, batch: dict[str, torch.Tensor]) -> tuple[list[str], list[int]]:
        """(texts, numbers of generated tokens) for a batch of left-padded prompts."""
        device = next(self.model.parameters()).device
        length = batch["input_ids"].shape[1]
        settled = _Settled(self, length)
        sequences_BT = self.model.generate(
            **{name: tensor.to(device) for name, tensor in batch.items()},
            stopping_criteria=StoppingCriteriaList([settled]),
        )
        rows = [self._own(ids) for ids in sequences_BT[:, length:].tolist()]
        counts = [settled.lengths.get(row, len(ids)) for row, ids in enumerate(rows)]
        return [self.text(ids[:count]) for ids, count in zip(rows, counts, strict=True)], counts

    def _own(self, ids: list[int]) -> list[int]:
        """Tokens up to the first end token, which counts as generated."""
        ends = [place + 1 for place, token in enumerate(ids) if token in self.eos_ids]
        return ids[: ends[0]] if ends else ids

    def text(self, ids: list[int]) -> str:
        """Generated tokens as text, special tokens left out."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def is_settled(self, text: str) -> bool:
        """Whether no continuation can change the answer any more."""
        answer = self.postprocess(text)
        return all(self.postprocess(text + probe) == answer for probe in _PROBES)


class _Settled(StoppingCriteria):
    """Ends each row when its answer is settled, and remembers after how many tokens."""

    def __init__(self, generator: _Generator, prompt_length: int) -> None:
        self.generator, self.prompt_length = generator, prompt_length
        self.lengths: dict[int, int] = {}

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Row by row: is it settled now, or was it before?"""
        for row, ids in enumerate(input_ids[:, self.prompt_length :].tolist()):
            if row not in self.lengths and self.generator.is_settled(self.generator.text(ids)):
                self.lengths[row] = len(ids)
        return torch.tensor([row in self.lengths for row in range(len(input_ids))], device=input_ids.device)


def _batches(encoded: Sequence[EncodedExample], size: int) -> Iterator[list[int]]:
    """Places of questions by length, the longest first: little padding, and too little memory shows at once."""
    order = sorted(range(len(encoded)), key=lambda place: (-len(encoded[place].prompt_ids), place))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _identity(params: PredictParams, model_dir: str | Path, adapter_dir: str | Path | None) -> str:
    """Digest of all that determines a cell's answers beside the prompts; the batch size does not."""
    files = [Path(model_dir) / "manifest.json"]
    if adapter_dir is not None:
        files += sorted(path for path in Path(adapter_dir).rglob("*") if path.is_file())
    digests = [sha256(file) for file in files if file.exists()]
    return sha256_text(json.dumps([params.model_copy(update={"batch_size": 1}).text(), digests]))


class _Partial:
    """Answers of an unfinished run: a line with the cell's identity, then a line per question."""

    def __init__(self, path: Path, identity: str) -> None:
        self.path, self.identity = path, identity

    def read(self, hashes: dict[str, str]) -> dict[str, Answer]:
        """Answers whose prompt is still the same, by question id; the file is left with these only."""
        entries = list(self._whole_lines())
        if not entries or entries[0] != {"identity": self.identity}:
            entries = []
        answers: list[Answer] = []
        with contextlib.suppress(TypeError):  # a damaged line: what comes before it is good
            answers.extend(Answer(**entry) for entry in entries[1:])
        good = [entry for entry in answers if hashes.get(entry.question_id) == entry.prompt_hash]
        write_jsonl(self.path, [{"identity": self.identity}, *map(asdict, good)])
        return {entry.question_id: entry for entry in good}

    def append(self, answers: Sequence[Answer]) -> None:
        """Add answered questions at once."""
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.writelines(json.dumps(asdict(entry), ensure_ascii=False) + "\n" for entry in answers)

    def _whole_lines(self) -> Iterator[Any]:
        """Lines up to the first that is not whole, as a killed run may leave it."""
        try:
            for _, entry in read_jsonl(self.path):
                yield entry
        except DataError:
            return
