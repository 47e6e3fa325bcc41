"""Examples as tokens: the prompt that a template renders, as ids that fit a model's window.

Pieces of the prompt (one per context, the question, the answer) are joined as tokens, so that cutting contexts never
changes the tokens of the question or the answer.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from retrotune.data.datasets.base import Example, Passage, Template
from retrotune.errors import DataError, RetrievalError
from retrotune.prompting.assemble import Assembler, special_ids
from retrotune.runtime.files import sha256_text
from retrotune.runtime.log import logger
from retrotune.study.config import PassageLayout


@dataclass(frozen=True)
class EncodedExample:
    """One question as token ids, without padding and virtual tokens.

    `answer_ids` end in eos, unless the answer was cut, and are empty for prediction; `neighbor_ids` holds at most
    `num_neighbors` lists of at most `retrieved_length` ids; `truncated` counts the context tokens that did not fit,
    `truncated_answer` those of the answer and its eos. `dropped_contexts` are those of which nothing is left,
    `cut_neighbors` those that were longer, `missing_passages` what the layout asks for and the cache does not hold.
    """

    question_id: str
    prompt_ids: list[int]
    answer_ids: list[int]
    neighbor_ids: list[list[int]]
    truncated: int = 0
    truncated_answer: int = 0
    dropped_contexts: int = 0
    missing_passages: int = 0
    cut_neighbors: int = 0

    @property
    def length(self) -> int:
        """Tokens without padding."""
        return len(self.prompt_ids) + len(self.answer_ids)

    @property
    def prompt_hash(self) -> str:
        """Hex digest of all that the model sees of the question."""
        return sha256_text(json.dumps([self.prompt_ids, self.neighbor_ids]))


def select_passages(
    passages: Sequence[Passage], layout: PassageLayout, question_id: str, may_be_fewer: bool
) -> tuple[list[Passage], list[Passage]]:
    """(contexts, neighbors) of one question: neighbors come after the contexts, or start again from rank 1.

    Raises `RetrievalError` if the cache holds fewer passages than the layout needs, unless `may_be_fewer`: a question's
    own document can have fewer passages than that.
    """
    if len(passages) < layout.needed and not may_be_fewer:
        raise RetrievalError(
            f"num_contexts={layout.num_contexts}, num_neighbors={layout.num_neighbors} needs {layout.needed} neighbors"
            f" but the cache holds {len(passages)} for question {question_id!r}: rebuild with top_k>={layout.needed},"
            " or retrieve from a corpus with more passages"
        )
    start = 0 if layout.reuse_contexts else layout.num_contexts
    return list(passages[: layout.num_contexts]), list(passages[start : start + layout.num_neighbors])


@dataclass(frozen=True)
class ExampleEncoder:
    """Turns questions with their passages into token ids that fit a model's window.

    `max_length` counts everything: left padding, virtual tokens, prompt, answer and eos. `max_new_tokens` are kept free
    for the answer in training too, so that a question has the same prompt in training and in prediction; a longer
    answer is learned only as far as it could be generated. `may_lack_passages`: a question may have fewer passages than
    the layout needs.
    """

    tokenizer: Any
    template: Template
    layout: PassageLayout
    max_length: int
    max_new_tokens: int
    chunk_length: int = 1
    retrieved_length: int = 128
    num_virtual_tokens: int = 0
    may_lack_passages: bool = False

    @cached_property
    def assembler(self) -> Assembler:
        """What makes ids of texts."""
        return Assembler(self.tokenizer)

    @cached_property
    def _separator_ids(self) -> list[int]:
        """What ends a context that was cut."""
        return self.assembler.go_on(["\n\n"])[0].ids

    def encode(self, example: Example, passages: Sequence[Passage], with_answer: bool) -> EncodedExample:
        """Encode one question. Contexts that do not fit are cut, the last first and each from its end.

        Raises `DataError` if the question does not fit without any context, `RetrievalError` if passages are missing.
        """
        contexts, neighbors = select_passages(passages, self.layout, example.question_id, self.may_lack_passages)
        head_ids, *context_pieces, question_ids, answer_ids = self.assembler.pieces(
            [
                self.template.system,
                *map(self.template.context_piece, contexts),
                self.template.question_piece(example),
                self.template.target_piece(example) if with_answer else "",
            ]
        )
        neighbor_pieces = self.assembler.begin([self.template.neighbor(passage) for passage in neighbors])
        separator_ids = self._separator_ids
        _, eos_id = special_ids(self.tokenizer)
        head_ids = self.assembler.bos + head_ids
        whole_answer_ids = [*answer_ids, eos_id] if with_answer else []
        answer_ids = whole_answer_ids[: self.max_new_tokens]
        room = self._room(example, len(head_ids) + len(question_ids))
        context_ids: list[int] = []
        truncated = dropped = 0
        for piece in context_pieces:
            left = room - len(context_ids)
            if len(piece) <= left:
                context_ids += piece
                continue
            kept = piece[: left - len(separator_ids)] + separator_ids if left > len(separator_ids) else []
            truncated += len(piece) - len(kept)
            dropped += not kept
            context_ids += kept
            room = len(context_ids)  # what comes after a cut context is dropped, not squeezed in
        return EncodedExample(
            question_id=example.question_id,
            prompt_ids=head_ids + context_ids + question_ids,
            answer_ids=answer_ids,
            neighbor_ids=[found.ids[: self.retrieved_length] for found in neighbor_pieces],
            truncated=truncated,
            truncated_answer=len(whole_answer_ids) - len(answer_ids),
            dropped_contexts=dropped,
            missing_passages=max(self.layout.needed - len(passages), 0),
            cut_neighbors=sum(len(found.ids) > self.retrieved_length for found in neighbor_pieces),
        )

    def encode_all(
        self, examples: Sequence[Example], passages: Mapping[str, Sequence[Passage]], with_answer: bool
    ) -> list[EncodedExample]:
        """Encode questions; `passages` maps question ids to ranked passages. Logs how many were cut."""
        encoded = [self.encode(example, passages.get(example.question_id, ()), with_answer) for example in examples]
        if encoded:
            lengths = [len(example.prompt_ids) for example in encoded]
            logger.info(
                "%d prompts of %d to %d tokens: %s", len(encoded), min(lengths), max(lengths), self._cut(encoded)
            )
        return encoded

    def _cut(self, encoded: Sequence[EncodedExample]) -> str:
        """What prompts, neighbors and answers have lost, in words."""

        def affected(name: str) -> int:
            return sum(getattr(example, name) > 0 for example in encoded)

        def total(name: str) -> int:
            return sum(getattr(example, name) for example in encoded)

        neighbors = sum(len(example.neighbor_ids) for example in encoded)
        said = [
            f"{affected('truncated')} shortened by {total('truncated')} context tokens to fit {self.max_length}, "
            f"{total('dropped_contexts')} contexts left out whole"
            if total("truncated")
            else "",
            f"{total('cut_neighbors')} of {neighbors} neighbors cut to {self.retrieved_length} tokens"
            if total("cut_neighbors")
            else "",
            f"{affected('missing_passages')} have fewer passages than asked for, {total('missing_passages')} in all"
            if total("missing_passages")
            else "",
            f"{affected('truncated_answer')} of {len(encoded)} answers cut to max_new_tokens={self.max_new_tokens}"
            if total("truncated_answer")
            else "",
        ]
        return "; ".join(filter(None, said)) or "nothing was cut"

    def _room(self, example: Example, question_length: int) -> int:
        """Tokens left for contexts."""
        window = max(self.max_length - self.max_new_tokens, 0) // self.chunk_length * self.chunk_length
        room = window - self.num_virtual_tokens - question_length
        if room < 0:
            virtual = f" + {self.num_virtual_tokens} virtual tokens" if self.num_virtual_tokens else ""
            chunks = f" in whole chunks of {self.chunk_length}" if self.chunk_length > 1 else ""
            raise DataError(
                f"question {example.question_id!r}: {question_length} tokens{virtual} do not fit into {window}{chunks},"
                f" the window of {self.max_length} less {self.max_new_tokens} for the answer; contexts are cut,"
                " questions never: raise max_length"
            )
        return room
