"""What prediction promises: greedy answers, and kept ones used again if and only if what made them is the same."""

import json

import pytest
from stage_cases import Death, Stages, answer_by_hand, nothing, setting

from retrotune.data.datasets import SPECS
from retrotune.methods import load_trained
from retrotune.models.loading import load_model
from retrotune.study.stages import PredictParams


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """Cells of both families whose questions have all been answered."""
    made = {kind: Stages(tmp_path_factory.mktemp(kind), kind) for kind in ("gpt", "retro")}
    return {kind: (stages, stages.predict()[0]) for kind, stages in made.items()}


def fresh(stages, folder):
    """Answers of the same cell in a folder without any kept ones."""
    return stages.copy(folder / "fresh", with_work=False).predict()[0]


@pytest.mark.parametrize(
    ("kind", "method", "batch_size"),
    [("gpt", None, 1), ("llama", "lora", 4), ("retro", None, 3), ("retro", "adapter", 4), ("retro", "ptuning", 3),
     ("gpt", "full", 4)],
)  # fmt: skip
def test_an_answer_is_greedy_and_depends_on_nothing_but_its_prompt(tmp_path, kind, method, batch_size):
    stages = Stages(tmp_path, kind, method, learning_rate=0.01)
    stages.set("evaluation.batch_size", batch_size)
    model = load_model(stages.model_dir)
    if method == "adapter":
        stages.set("methods.m.dropout", 0.5)  # which is for training only
    if method is not None:
        stages.finetune()
        model = load_trained(model, stages.adapter)
    model.eval()
    by_hand = {name: answer_by_hand(model, stages.row(name, with_answer=False)) for name in stages.questions}
    answers, asked = stages.predict()
    assert answers == {name: SPECS["nq"].prompt_of("base").postprocess(text) for name, text in by_hand.items()}
    assert len(set(answers.values())) > 2
    assert asked == 4


def change_question(stages):
    stages.questions["b"] = ("who ruled", *stages.questions["b"][1:])


def change_passage(stages):
    stages.questions["c"] = (*stages.questions["c"][:2], "It snows.")


def drop_and_turn(stages):
    stages.questions = dict(reversed([item for item in stages.questions.items() if item[0] != "a"]))


def add_question(stages):
    stages.questions["new"] = ("who rules now", "Omri", "Omri rules.")


def exchange(stages):
    """Two questions exchange their ids, and so their prompts."""
    stages.questions |= {"a": stages.questions["b"], "b": stages.questions["a"]}


def change_answer(stages):
    stages.questions["d"] = (stages.questions["d"][0], "Another", stages.questions["d"][2])


def other_weights(stages):
    stages.write_model(seed=1)


CHANGES = [  # and how many questions are asked again
    (nothing, 0),
    (change_answer, 0),
    (drop_and_turn, 0),
    (setting("evaluation.resamples", 60), 0),
    (setting("finetuning.learning_rate", 0.5), 0),
    (change_question, 1),
    (change_passage, 1),
    (add_question, 1),
    (exchange, 2),
    (other_weights, 4),
    (setting("datasets.d.max_new_tokens", 5), 4),
    (setting("datasets.d.prompt", "instruct"), 4),
    (setting("models.x.precision", "bfloat16"), 4),
]


WITH_NEIGHBORS = [(nothing, 0), (change_passage, 1), (other_weights, 4)]


@pytest.mark.parametrize(
    ("kind", "change", "again"),
    [*(("gpt", *case) for case in CHANGES), *(("retro", *case) for case in WITH_NEIGHBORS)],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_kept_answer_is_used_if_and_only_if_what_made_it_is_the_same(tmp_path, answered, kind, change, again):
    stages, before = answered[kind][0].copy(tmp_path), answered[kind][1]
    change(stages)
    answers, asked = stages.predict()
    assert asked == again
    if again == 0:
        assert answers.items() <= before.items()
    else:
        assert answers == fresh(stages, tmp_path)


def test_kept_answers_of_a_retro_need_the_same_passages_and_gate(tmp_path, answered):
    stages, first = answered["retro"][0].copy(tmp_path), answered["retro"][1]
    # neither decides the ids of a prompt: the neighbor encoder reads the first, and weighs with the second
    stages.questions["a"] = (*stages.questions["a"][:2], "Hask lies.")
    second, asked = stages.predict()
    assert asked == 1
    stages.set("models.x.retrieval_gate", 0.1)
    third, asked = stages.predict()
    assert asked == 4
    assert len({str(first), str(second), str(third)}) == 3


@pytest.mark.parametrize("method", ["lora", "full"])
def test_answers_of_other_trained_weights_are_not_used(tmp_path, method):
    stages = Stages(tmp_path, "gpt", method)
    stages.finetune()
    before, _ = stages.predict()
    stages.finetune()  # the same weights again
    assert stages.predict() == (before, 0)
    stages.set("finetuning.learning_rate", 0.05)
    stages.finetune()
    answers, asked = stages.predict()
    assert asked == 4
    assert answers == fresh(stages, tmp_path) != before


def test_answers_of_another_version_of_the_stage_are_not_used(tmp_path, answered, monkeypatch):
    stages = answered["gpt"][0].copy(tmp_path)
    monkeypatch.setattr(PredictParams, "version", -1)
    assert stages.predict()[1] == 4


@pytest.mark.parametrize("stop_at", [0, 1, 3])
def test_what_was_answered_before_a_death_is_not_asked_again(tmp_path, answered, stop_at):
    stages, expected = answered["gpt"][0].copy(tmp_path, with_work=False), answered["gpt"][1]
    with pytest.raises(Death):
        stages.predict(stop_at)
    assert stages.predict() == (expected, 4 - stop_at)


def last(change):
    return lambda lines: [*lines[:-1], change(lines[-1])]


def without(key):
    return last(lambda line: json.dumps({name: value for name, value in json.loads(line).items() if name != key}))


DAMAGES = {  # changes of the lines, and how many questions are asked again
    "none": (lambda lines: lines, 0),
    "half a line": (last(lambda line: line[: len(line) // 2]), 1),
    "a key is missing": (without("text"), 1),
    "a key too many": (last(lambda line: json.dumps({**json.loads(line), "more": 1})), 1),
    "no object": (last(lambda line: "[]"), 1),
    "null": (last(lambda line: "null"), 1),
    "another prompt": (last(lambda line: json.dumps({**json.loads(line), "prompt_hash": "0"})), 1),
    "the second of four": (lambda lines: [*lines[:2], lines[2][:-5], *lines[3:]], 3),
    "the last twice": (lambda lines: [*lines, lines[-1]], 0),
    "the head is torn": (lambda lines: [lines[0][:-3], *lines[1:]], 4),
    "another head": (lambda lines: [json.dumps({"identity": "another"}), *lines[1:]], 4),
    "no head": (lambda lines: lines[1:], 4),
    "nothing left": (lambda lines: [], 4),
    "zeros": (lambda lines: ["\0" * 99], 4),
    "no text": (lambda lines: ["\udcff\udcfe"], 4),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_answers_are_given_again_and_no_others(tmp_path, answered, damage):
    change, again = DAMAGES[damage]
    stages, expected = answered["gpt"][0].copy(tmp_path), answered["gpt"][1]
    lines = change(stages.kept.read_text(encoding="utf-8").splitlines())
    stages.kept.write_text("\n".join(lines), encoding="utf-8", errors="surrogateescape")
    assert stages.predict() == (expected, again)
    assert stages.predict() == (expected, 0)  # the file is whole again


def test_a_finished_prediction_keeps_nothing_for_another_run(tmp_path, answered):
    stages, expected = answered["gpt"][0].copy(tmp_path), answered["gpt"][1]
    assert stages.predict(finish=True) == (expected, 0)
    assert not list(stages.root.glob("work/**/*.jsonl"))
    assert stages.predict(finish=True) == (expected, 4)
