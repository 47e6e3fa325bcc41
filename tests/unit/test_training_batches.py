"""Token layouts of examples: borders, labels, truncation, neighbors."""

import logging
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig

from retrotune.data.datasets import Example, Passage, get_spec
from retrotune.errors import DataError, ModelError, RetrievalError, TrainingError
from retrotune.prompting.examples import EncodedExample, ExampleEncoder
from retrotune.prompting.padding import Collator, pad_neighbors
from retrotune.runtime.files import read_json
from retrotune.runtime.log import logger
from retrotune.study.config import CorpusEntry, PassageLayout
from retrotune.study.stages import Prompting, TrainTokenizerParams
from retrotune.training.batches import cell_batching
from retrotune.training.tokenizer import train_tokenizer, wrap_tokenizer

TEXT = "title: Kelo, source: The mayor of Kelo is Dana.\n\nQuestion: Who is the mayor? Answer: The answer is Dana.\n"
PASSAGES = [Passage(str(number), f"Town {number}", f"Fact {number} of the town.", 1.0) for number in range(5)]
OPEN = Example("q1", "Who is the mayor of Kelo", ("Dana", "Dana Ruvo"))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    root = tmp_path_factory.mktemp("text")
    (root / "a.txt").write_text(TEXT, encoding="utf-8")
    params = TrainTokenizerParams(corpora={"a": CorpusEntry(reader="text", path="a.txt")}, vocab_size=300)
    train_tokenizer(params, root, root / "one.json")
    train_tokenizer(params, root, root / "two.json")
    assert (root / "one.json").read_bytes() == (root / "two.json").read_bytes()
    manifest = read_json(root / "manifest.json")
    assert (manifest["params"], manifest["documents"]) == (params.recorded(), {"a": 1})
    assert (manifest["vocab_size"], manifest["bad_records"]["a"]["skipped"]) == (300, 0)
    with pytest.raises(TrainingError, match="vocab_size=100"):
        train_tokenizer(params.model_copy(update={"vocab_size": 100}), root, root / "three.json")
    return wrap_tokenizer(root / "one.json")


@pytest.fixture
def encoder(tokenizer):
    layout = PassageLayout(num_contexts=2, num_neighbors=1)
    return ExampleEncoder(tokenizer, get_spec("nq").prompt_of("base"), layout, max_length=512, max_new_tokens=8)


def test_a_window_shorter_than_the_longest_example_is_refused(tokenizer):
    config = LlamaConfig(max_position_embeddings=64)
    prompting = Prompting(
        family="gpt", template=get_spec("nq").prompt_of("base"), layout=PassageLayout(), max_length=64, max_new_tokens=8
    )
    assert cell_batching(prompting, "mine", config, tokenizer)[0].max_length == 64
    with pytest.raises(ModelError, match=r"models\.mine takes 64 tokens at most, but max_length=65: lower max_length"):
        cell_batching(prompting.model_copy(update={"max_length": 65}), "mine", config, tokenizer)
    config.max_position_embeddings = -1
    assert cell_batching(prompting, "mine", config, tokenizer)[0].max_length == 64


def test_tokenizer_is_lossless_and_loads_with_auto_tokenizer(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "Ünïcode 漢字\n  two  spaces ."
    assert loaded.decode(loaded(text)["input_ids"]) == text
    assert (loaded.pad_token_id, loaded.eos_token_id) == (0, 1)


def test_prompt_is_contexts_then_question_then_answer_and_eos(encoder, tokenizer):
    encoded = encoder.encode(OPEN, PASSAGES, with_answer=True)
    assert tokenizer.decode(encoded.prompt_ids) == (
        "title: Town 0, source: Fact 0 of the town.\n\ntitle: Town 1, source: Fact 1 of the town.\n\n"
        "Question: Who is the mayor of Kelo? Answer: The answer is"
    )
    assert tokenizer.decode(encoded.answer_ids) == " Dana<eos>"
    assert [tokenizer.decode(ids) for ids in encoded.neighbor_ids] == ["title: Town 2, source: Fact 2 of the town."]
    assert encoder.encode(OPEN, PASSAGES, with_answer=False).answer_ids == []


def test_reused_contexts_are_the_first_neighbors_again(encoder, tokenizer):
    layout = PassageLayout(num_contexts=1, num_neighbors=2, reuse_contexts=True)
    encoded = replace(encoder, layout=layout, retrieved_length=4).encode(OPEN, PASSAGES[:2], with_answer=False)
    full = tokenizer("title: Town 0, source: Fact 0 of the town.")["input_ids"]
    assert encoded.neighbor_ids[0] == full[:4]
    assert [len(ids) for ids in encoded.neighbor_ids] == [4, 4]


def test_missing_neighbors_are_an_error_unless_there_may_be_fewer(encoder):
    with pytest.raises(RetrievalError, match=r"needs 3 neighbors but the cache holds 2 .*'q1'.*top_k>=3"):
        encoder.encode(OPEN, PASSAGES[:2], with_answer=False)
    short = replace(encoder, may_lack_passages=True)
    assert short.encode(OPEN, PASSAGES[:2], with_answer=False).neighbor_ids == []
    whole, one = (short.encode(OPEN, PASSAGES[:count], with_answer=False) for count in (3, 1))
    assert len(whole.neighbor_ids) == 1
    assert (len(one.neighbor_ids), len(one.prompt_ids) < len(whole.prompt_ids)) == (0, True)
    assert short.encode(OPEN, [], with_answer=False).neighbor_ids == []


def test_truncation_cuts_contexts_from_the_end_and_never_the_question(encoder, tokenizer):
    whole = encoder.encode(OPEN, PASSAGES, with_answer=False)
    question = tokenizer("Question: Who is the mayor of Kelo? Answer: The answer is")["input_ids"]
    first = tokenizer("title: Town 0, source: Fact 0 of the town.\n\n")["input_ids"]
    gap = tokenizer("\n\n")["input_ids"]
    both, one, end = len(whole.prompt_ids) - len(question), len(first), len(gap)
    # room for contexts, and how much of it they take: no blank line stands for a context of which nothing is left
    for room, taken in ((both, both), (both - 1, both - 1), (one + end + 1, one + end + 1), (one + end, one),
                        (one, one), (one - 2, one - 2), (end + 1, end + 1), (end, 0), (0, 0)):  # fmt: skip
        cut = replace(encoder, max_length=len(question) + room + 8).encode(OPEN, PASSAGES, with_answer=False)
        contexts = cut.prompt_ids[: -len(question)]
        assert cut.prompt_ids[-len(question) :] == question
        assert len(contexts) == taken
        assert cut.truncated == both - taken
        assert not contexts or contexts[-len(gap) :] == gap
        assert contexts[: -len(gap)] == whole.prompt_ids[: max(len(contexts) - len(gap), 0)]
    with pytest.raises(
        DataError, match=rf"'q1': {len(question)} tokens do not fit into {len(question) - 1}.*max_length"
    ):
        replace(encoder, max_length=len(question) + 7).encode(OPEN, PASSAGES, with_answer=False)


def test_a_long_answer_is_cut_and_changes_no_prompt(encoder, tokenizer):
    long = replace(OPEN, answers=("a very long answer " * 20,))
    tight = replace(encoder, max_length=80)
    encoded = tight.encode(long, PASSAGES, with_answer=True)
    whole = tokenizer(f" {long.answers[0]}")["input_ids"]
    assert encoded.answer_ids == whole[:8]
    assert encoded.truncated_answer == len(whole) + 1 - 8
    assert encoded.prompt_ids == tight.encode(long, PASSAGES, with_answer=False).prompt_ids
    exact = replace(tight, max_new_tokens=len(tokenizer(" Dana")["input_ids"]) + 1)
    assert exact.encode(OPEN, PASSAGES, with_answer=True).truncated_answer == 0


def test_each_question_gets_its_own_passages_and_cuts_are_counted(encoder, caplog, monkeypatch):
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level(logging.INFO, logger="retrotune")
    mayors = [replace(OPEN, question_id=name, answers=answers) for name, answers in
              (("q2", ("a b c d e f g h i j k l",)), ("q1", ("Dana",)), ("q3", ("Ada",)))]  # fmt: skip
    passages = {"q1": PASSAGES[1:4], "q2": PASSAGES[:3]}
    roomy = replace(encoder, may_lack_passages=True)
    made = roomy.encode_all(mayors, passages, with_answer=True)
    assert made == [roomy.encode(mayor, passages.get(mayor.question_id, ()), with_answer=True) for mayor in mayors]
    assert "1 of 3 answers cut to max_new_tokens=" in caplog.text
    caplog.clear()
    without_eos = replace(roomy, max_new_tokens=len(made[1].answer_ids) - 1)
    without_eos.encode_all(mayors[1:2], passages, with_answer=True)
    assert "1 of 1 answers cut to max_new_tokens=" in caplog.text
    caplog.clear()
    tight = replace(roomy, max_length=made[2].length + 20)
    cut = [question.truncated for question in tight.encode_all(mayors, passages, with_answer=False)]
    assert f": 2 shortened by {sum(cut)} context tokens to fit {tight.max_length}, " in caplog.text
    assert [count > 0 for count in cut] == [True, True, False]


def test_left_padding_and_virtual_tokens_count_against_the_window(encoder):
    retro = replace(encoder, max_length=80, max_new_tokens=8, chunk_length=16, num_virtual_tokens=5)
    encoded = retro.encode(OPEN, PASSAGES, with_answer=True)
    assert encoded.truncated > 0
    batch = Collator(0, 16, 5, 1)([encoded])
    assert batch["input_ids"].shape[1] <= 64 + len(encoded.answer_ids)
    assert Collator(0, 16, 5, 1).prompts([encoded])["input_ids"].shape == (1, 64)


def test_exact_layout_of_a_training_batch():
    short = EncodedExample("a", [11, 12], [21, 1], [[31, 32, 33], [34]])
    long = EncodedExample("b", [11, 12, 13, 14], [21, 22, 1], [])
    batch = Collator(pad_id=0, chunk_length=4, num_virtual_tokens=1, num_neighbors=2)([short, long])
    assert batch["input_ids"].tolist() == [
        [0, 0, 11, 12, 21, 1, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 11, 12, 13, 14, 21, 22, 1],
    ]
    assert batch["attention_mask"].tolist() == [
        [0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1],
    ]
    assert batch["labels"].tolist() == [
        [-100] * 4 + [21, 1] + [-100] * 5,
        [-100] * 8 + [21, 22, 1],
    ]
    assert batch["neighbor_ids"].tolist() == [[[31, 32, 33], [34, 0, 0]], [[0, 0, 0], [0, 0, 0]]]
    assert batch["neighbor_mask"].tolist() == [[[1, 1, 1], [1, 0, 0]], [[0, 0, 0], [0, 0, 0]]]


def test_exact_layout_of_a_prediction_batch():
    examples = [EncodedExample("a", [11, 12], [], []), EncodedExample("b", [11, 12, 13, 14], [], [])]
    batch = Collator(pad_id=0, chunk_length=4, num_virtual_tokens=1).prompts(examples)
    assert batch["input_ids"].tolist() == [[0, 0, 0, 0, 0, 0, 11, 12], [0, 0, 0, 0, 11, 12, 13, 14]]
    assert batch["attention_mask"].tolist() == [[0, 0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1, 1]]
    assert batch.keys() == {"input_ids", "attention_mask"}


lengths = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 9)), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(lengths=lengths, chunk_length=st.integers(1, 16), virtual=st.integers(0, 20))
def test_answers_begin_on_a_border_and_prompts_end_on_one(lengths, chunk_length, virtual):
    examples = [EncodedExample("q", [7] * prompt, [8] * answer, []) for prompt, answer in lengths]
    collator = Collator(0, chunk_length, virtual)
    batch = collator(examples)
    for row, (prompt, answer) in enumerate(lengths):
        start = int((batch["labels"][row] != -100).int().argmax())
        assert start % chunk_length == 0
        assert start - virtual - prompt == int(batch["attention_mask"][row].argmax()) < chunk_length
        assert int(batch["attention_mask"][row].sum()) == virtual + prompt + answer
    prompts = collator.prompts(examples)
    assert prompts["input_ids"].shape[1] % chunk_length == 0
    assert torch.all(prompts["input_ids"][:, -1] == 7)


def test_no_neighbor_at_all_gives_one_masked_column():
    ids, mask = pad_neighbors([[], []], 3, pad_id=0)
    assert ids.shape == mask.shape == (2, 3, 1)
    assert int(mask.sum()) == 0
