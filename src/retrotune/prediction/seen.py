"""What a cell's model saw of one test question: its prompt and neighbors as prediction encodes them, and its answer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from retrotune.data.datasets import Example
from retrotune.errors import DataError
from retrotune.models.loading import load_config, load_tokenizer
from retrotune.preparing.examples import load_examples, load_references
from retrotune.prompting.examples import select_passages
from retrotune.retrieval.caches.questions import load_neighbors
from retrotune.study.cells import Cell
from retrotune.study.config import Config
from retrotune.study.paths import Paths
from retrotune.study.records import read_predictions
from retrotune.study.resolve import cell_stages
from retrotune.study.stages import PredictParams
from retrotune.training.batches import cell_batching

_NAMED = 5
"""So many of several questions that fit are named."""


@dataclass(frozen=True)
class Seen:
    """One question as a cell's model saw it; texts are decoded tokens, special ones included.

    `left_padding` is that of the question alone: in a batch shorter prompts have more. `neighbors` are those for the
    encoder (RETRO), whose texts end after `retrieved_length` tokens. `cut_tokens` counts context tokens that did not
    fit. `answers` are the references, if they are there, `predicted` is the question's line of predictions.jsonl, None
    if there is none yet.
    """

    cell: str
    question_id: str
    prompt: str
    prompt_tokens: int
    virtual_tokens: int
    left_padding: int
    cut_tokens: int
    contexts: list[dict[str, Any]]
    neighbors: list[dict[str, Any]]
    prompt_hash: str
    answers: list[str] = field(default_factory=list)
    predicted: dict[str, Any] | None = None

    @property
    def differs(self) -> bool:
        """Whether the prediction on disk was made from another prompt."""
        return self.predicted is not None and self.predicted.get("prompt_hash") != self.prompt_hash


def what_was_seen(config: Config, cell: Cell, question: str) -> Seen:
    """Encode a test question as the cell's prediction does; `question` is its id, or a part of its text.

    Reads the base model's folder (not its weights), the questions and the neighbors. Raises `DataError` if no question
    fits or several do, and what loading raises for files that are not there yet.
    """
    paths, params = Paths.of(config), cast(PredictParams, cell_stages(config, cell)["predict_cell"])
    folder = paths.model(cell.model)
    tokenizer = load_tokenizer(folder, params.base.trust_remote_code)
    encoder, collator = cell_batching(
        params.prompting, cell.model, load_config(folder, params.base.trust_remote_code), tokenizer
    )
    file = paths.examples(cell.dataset, "test")
    example = find_question(load_examples(file), question, file)
    retrieves = config.retrievals[cell.retrieval].retriever is not None
    cache = load_neighbors(paths.neighbors(cell.retrieval, cell.dataset, "test")) if retrieves else {}
    passages = cache.get(example.question_id, ())
    encoded = encoder.encode(example, passages, with_answer=False)
    contexts, neighbors = select_passages(passages, encoder.layout, example.question_id, may_be_fewer=True)
    mask_T = collator.prompts([encoded])["attention_mask"][0]
    predictions = Path(paths.cell(cell, "predictions.jsonl"))
    lines = [line for _, line in read_predictions(predictions)] if predictions.is_file() else []
    references = Path(paths.references(cell.dataset, "test"))
    found = load_references(references).get(example.question_id) if references.is_file() else None
    return Seen(
        cell=cell.name,
        question_id=example.question_id,
        prompt=tokenizer.decode(encoded.prompt_ids),
        prompt_tokens=len(encoded.prompt_ids),
        virtual_tokens=encoder.num_virtual_tokens,
        left_padding=int((mask_T == 0).sum()),
        cut_tokens=encoded.truncated,
        contexts=[{"passage_id": passage.passage_id, "title": passage.title} for passage in contexts],
        neighbors=[
            {"passage_id": passage.passage_id, "tokens": len(ids), "text": tokenizer.decode(ids)}
            for passage, ids in zip(neighbors, encoded.neighbor_ids, strict=True)
        ],
        prompt_hash=encoded.prompt_hash,
        answers=list(found.answers) if found else [],
        predicted=next((line.model_dump() for line in lines if line.question_id == example.question_id), None),
    )


def find_question(examples: Sequence[Example], wanted: str, file: str) -> Example:
    """The question with the id `wanted`, or the only one whose text holds it, in whatever case.

    Raises `DataError` that names `file` and the questions that fit.
    """
    for example in examples:
        if example.question_id == wanted:
            return example
    found = [example for example in examples if wanted.casefold() in example.question.casefold()]
    if len(found) == 1:
        return found[0]
    named = "; ".join(f"{example.question_id}: {example.question[:80]}" for example in (found or examples)[:_NAMED])
    if not found:
        raise DataError(f"{file}: none of {len(examples)} questions has the id or the text {wanted!r}; it has {named}")
    raise DataError(f"{file}: {len(found)} questions hold {wanted!r}: {named}; give an id, or more of the text")


def as_text(seen: Seen) -> str:
    """Text of `retrotune prompt`."""
    cut = f"{seen.cut_tokens} tokens of contexts did not fit and were cut" if seen.cut_tokens else "nothing was cut"
    before = f"{seen.virtual_tokens} virtual tokens, {seen.left_padding} of left padding"
    passages = ", ".join(passage["passage_id"] for passage in seen.contexts) or "none"
    lines = [
        f"{seen.cell}, question {seen.question_id}",
        f"--- prompt: {seen.prompt_tokens} tokens, before it {before}; {cut}; contexts: {passages}",
        seen.prompt,
    ]
    for rank, neighbor in enumerate(seen.neighbors, start=1):
        lines += [f"--- neighbor {rank}: {neighbor['passage_id']}, {neighbor['tokens']} tokens", neighbor["text"]]
    lines.append(f"--- prompt hash: {seen.prompt_hash}{', as in predictions.jsonl' * bool(seen.predicted)}")
    if seen.differs and seen.predicted is not None:
        lines[-1] = (
            f"--- prompt hash: {seen.prompt_hash}; predictions.jsonl has {seen.predicted.get('prompt_hash')}: its "
            "answer was given to another prompt"
        )
    if seen.predicted is None:
        lines.append("--- not answered yet")
    else:
        lines.append(f"--- answered: {seen.predicted.get('prediction')!r}, generated {seen.predicted.get('text')!r}")
    if seen.answers:
        lines.append(f"--- reference answers: {', '.join(map(repr, seen.answers))}")
    return "\n".join(lines)
