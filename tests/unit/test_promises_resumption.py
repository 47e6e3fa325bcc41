"""A training that was interrupted goes on if, and only if, everything that determines it is the same."""

import shutil

import pytest
from stage_cases import DOCUMENTS, Stages, nothing, pretrain, read_log, setting, weights_in
from test_promises_training import distance

from retrotune.study.config import Emphasis


def data(index, value):
    """Another question (0), answer (1) or passage (2)."""

    def change(stages):
        entry = list(stages.questions["b"])
        entry[index] = value
        stages.questions["b"] = tuple(entry)

    change.__name__ = f"data-{index}"
    return change


def other_weights(stages):
    stages.write_model(seed=1)


SAME = [
    nothing,
    setting("evaluation.batch_size", 3),
    setting("evaluation.resamples", 60),
    setting("models.x.resources.mem_mb", 4000),
]
OTHER = [
    setting("seed", 1),
    setting("finetuning.learning_rate", 0.02),
    setting("finetuning.weight_decay", 0.2),
    setting("finetuning.warmup_steps", 2),
    setting("finetuning.batch_size", 3),
    setting("finetuning.max_steps", 5),
    setting("methods.m.alpha", 1.0),
    setting("datasets.d.max_new_tokens", 7),
    setting("retrievals.r.gpt.num_contexts", 2),
    data(0, "who ruled"),
    data(1, "Kira Vo"),
    data(2, "Kiro has no boat."),
    other_weights,
]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A training that died in its third step of two micro-batches each."""
    folder = tmp_path_factory.mktemp("interrupted")
    stages = Stages(folder, "gpt", "lora", learning_rate=0.01, batch_size=2, micro_batch_size=1, max_steps=4)
    stages.finetune(stop_at=5)
    return stages


def outcome(stages):
    lines = [{key: value for key, value in line.items() if key != "seconds"} for line in stages.log()]
    return lines, {name: value.tolist() for name, value in weights_in(stages.adapter).items()}


@pytest.mark.parametrize("change", SAME, ids=lambda change: change.__name__)
def test_the_same_finetuning_goes_on_with_the_next_batch(tmp_path, interrupted, change):
    stages = interrupted.copy(tmp_path)
    change(stages)
    assert [place for place, _ in stages.finetune()] == [4, 5, 6, 7]


@pytest.mark.parametrize("change", OTHER, ids=lambda change: change.__name__)
def test_another_finetuning_begins_anew(tmp_path, interrupted, change):
    stages = interrupted.copy(tmp_path)
    change(stages)
    assert stages.finetune(stop_at=1)[0][0] == 0


@pytest.mark.parametrize("rate", [0.01, 0.02])
def test_resumed_or_begun_anew_it_ends_as_one_without_interruption(tmp_path, interrupted, rate):
    ends = []
    for with_work in (True, False):
        stages = interrupted.copy(tmp_path / str(with_work), with_work)
        stages.set("finetuning.learning_rate", rate)
        ends.append((stages.finetune()[0][0], outcome(stages)))
    (first_place, one), (_, other) = ends
    assert first_place == (4 if rate == 0.01 else 0)
    assert one == other
    assert not list(stages.root.glob("work/**/checkpoint*"))


OTHER_PRETRAININGS = {
    "rate": {"learning_rate": 0.02},
    "seed": {"seed": 1},
    "decay": {"weight_decay": 0.2},
    "steps": {"steps": 5},
    "emphasis": {"emphasis": Emphasis(other_weight=0.5)},
    "text": {"documents": (*DOCUMENTS[:-1], "Q? The answer is Ho.")},
}


def test_the_same_pretraining_goes_on_with_the_next_batch(tmp_path):
    pretrain(tmp_path, "retro", "whole")
    pretrain(tmp_path, "retro", stop_at=3)
    assert [place for place, _ in pretrain(tmp_path, "retro")] == [2, 3]
    assert distance(weights_in(tmp_path / "base"), weights_in(tmp_path / "whole")) == 0
    assert [line["loss"] for line in read_log(tmp_path / "base")] == [
        line["loss"] for line in read_log(tmp_path / "whole")
    ]


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """The folder of a pretraining that died in its third step."""
    folder = tmp_path_factory.mktemp("pretraining")
    pretrain(folder, "gpt", stop_at=3)
    return folder


@pytest.mark.parametrize("name", OTHER_PRETRAININGS)
def test_another_pretraining_begins_anew(tmp_path, begun, name):
    base = shutil.copytree(begun, tmp_path / "begun")
    assert pretrain(base, "gpt", stop_at=1, **OTHER_PRETRAININGS[name])[0][0] == 0
