"""Pretraining text as sequences: emphasis, contexts, chunks and their neighbors, left-out passages."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from retrotune.data.datasets import Passage
from retrotune.preparing.documents import Document
from retrotune.study.config import Emphasis, PassageLayout
from retrotune.training.sequences import (
    SequenceCollator,
    SequenceMaker,
    TokenSequence,
    emphasis_weights,
    passage_texts,
)

PAD, EOS = 0, 1


@pytest.fixture(scope="module")
def letters():
    """A tokenizer of single characters: token positions are character positions, `a` is 97."""
    vocabulary = {"<pad>": PAD, "<eos>": EOS} | {chr(code): code for code in range(2, 127)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="~"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def ids(text):
    return [ord(letter) for letter in text]


def test_answers_weigh_one_up_to_their_line_break():
    text = "Q A: x\nQ A: yz"
    offsets = [(at, at + 1) for at in range(len(text))]
    weights, answers = emphasis_weights(text, offsets, Emphasis(cue="A:", other_weight=0.25))
    assert answers == [4, 11]
    assert weights == [0.25] * 4 + [1.0] * 3 + [0.25] * 4 + [1.0] * 3
    assert emphasis_weights(text, offsets, None) == ([1.0] * 14, [])
    # A token that holds the end of the cue and the beginning of the answer counts as answer.
    assert emphasis_weights("A: x", [(0, 1), (1, 3), (3, 4)], Emphasis(cue="A:", other_weight=0)) == (
        [0.0, 1.0, 1.0],
        [1],
    )


def test_a_document_is_a_sequence_with_its_contexts_in_front(letters):
    emphasis = Emphasis(cue="A:", other_weight=0.5)
    neighbors = {("d", 0): ["one", "two", "three"]}
    maker = SequenceMaker(letters, 20, 4, 2, PassageLayout(num_contexts=1, num_neighbors=2), emphasis)
    [made] = maker.documents([Document("d", "", "Q A: x")], neighbors)
    assert made.context_ids == ids("one\n\n")
    assert made.ids == [*ids("Q A: x"), EOS]
    assert made.weights == [0.5] * 4 + [1.0] * 3
    assert made.answers == [4]
    assert made.neighbors == [[ids("tw"), ids("th")]]
    tight = SequenceMaker(letters, 9, 4, 2, PassageLayout(num_contexts=1), emphasis)
    assert tight.documents([Document("d", "", "Q A: x")], neighbors)[0].context_ids == ids("on")
    [first, second] = tight.documents([Document("e", "", "Q A: xxxxxxxxxx")], neighbors)
    assert (first.ids, first.context_ids, first.answers) == (ids("Q A: xxxx"), [], [4])
    assert (second.ids, second.answers) == ([*ids("xxxxxx"), EOS], [])


def test_documents_fill_whole_chunks_with_their_own_neighbors(letters):
    neighbors = {("a", 0): ["p0"], ("a", 1): ["p1", "q1"], ("b", 0): ["r0"]}
    maker = SequenceMaker(letters, 8, 4, 9, PassageLayout(num_neighbors=2))
    documents = [Document("a", "", "abcdef"), Document("b", "", "xyz"), Document("c", "", "mn")]
    first, second = maker.chunks(documents, neighbors)
    assert first.ids == [*ids("abcdef"), EOS, PAD]
    assert first.mask == [1] * 7 + [0]
    assert first.weights == [1.0] * 7 + [0.0]
    assert first.neighbors == [[ids("p0")], [ids("p1"), ids("q1")]]
    assert second.ids == [*ids("xyz"), EOS, *ids("mn"), EOS, PAD]
    assert second.neighbors == [[ids("r0")], []]
    batch = SequenceCollator(PAD, 4, num_neighbors=2, per_chunk=True)([first, second], Random(0))
    assert batch["input_ids"].shape == (2, 8)
    assert batch["neighbor_ids"].shape == (2, 2, 2, 2)
    assert batch["neighbor_ids"][0, 1].tolist() == [ids("p1"), ids("q1")]
    assert batch["neighbor_mask"][1].tolist() == [[[1, 1], [0, 0]], [[0, 0], [0, 0]]]
    assert batch["labels"][0].tolist() == [*ids("abcdef"), EOS, -100]


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), min_size=1, max_size=4),
    chunk_length=st.integers(2, 8),
    seed=st.integers(0, 99),
)
def test_an_answer_begins_on_a_border(lengths, chunk_length, seed):
    sequences = [
        TokenSequence([7] * (size + 1), [1] * (size + 1), [1.0] * (size + 1), [5] * context, answers=[size])
        for context, size in lengths
    ]
    batch = SequenceCollator(PAD, chunk_length)(sequences, Random(seed))
    for row, (context, size) in enumerate(lengths):
        padding = int(batch["attention_mask"][row].argmax())
        assert padding < chunk_length
        assert (padding + context + size) % chunk_length == 0
        assert int(batch["attention_mask"][row].sum()) == context + size + 1
        assert int((batch["labels"][row] != -100).sum()) == size + 1


def test_a_share_of_sequences_gets_no_passages():
    sequence = TokenSequence([7, 8], [1, 1], [1.0, 1.0], [5, 5], neighbors=[[[9]]])
    collator = SequenceCollator(PAD, num_neighbors=1, no_passage_share=0.3)
    batch = collator([sequence] * 400, Random(1))
    with_context = batch["attention_mask"].sum(1) == 4
    assert 250 < int(with_context.sum()) < 310
    assert bool((batch["neighbor_mask"][:, 0, 0].bool() == with_context).all())
    assert bool((collator([sequence] * 400, Random(1))["input_ids"] == batch["input_ids"]).all())


def test_passages_look_as_in_base_prompts():
    found = {("d", 2): [Passage("1", "T", "a\n b.", 1.0), Passage("2", "", "c", 0.5)]}
    assert passage_texts(found) == {("d", 2): ["title: T, source: a b.", "title: , source: c"]}
