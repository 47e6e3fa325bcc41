"""What training promises, computed again by hand: losses, gradients, rates, updates, and the order of examples."""

import math
from itertools import pairwise
from random import Random
from statistics import mean

import pytest
import torch
from stage_cases import (
    Stages,
    document_row,
    pretrain,
    rates_by_hand,
    read_log,
    train_by_hand,
    weights_in,
)

from retrotune.methods import save_trained
from retrotune.models.loading import load_model
from retrotune.training.planned import BUCKET_STEPS, PlannedBatches, plan_batches


def distance(one, other):
    assert one.keys() == other.keys()
    return math.sqrt(sum(float(((one[name] - other[name]).double() ** 2).sum()) for name in one))


def check_log(lines, by_hand, rates):
    """Each step's loss, norm of gradients and rate."""
    assert len(lines) == len(by_hand)
    for line, (loss, norm), rate in zip(lines, by_hand, rates, strict=True):
        assert line["loss"] == pytest.approx(loss, rel=1e-3)
        assert line["grad_norm"] == pytest.approx(norm, rel=0.02)
        assert line["learning_rate"] == pytest.approx(rate, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(
    ("kind", "method", "micro"),
    [
        ("gpt", "full", None), ("gpt", "adapter", 3), ("llama", "lora", 3),
        ("retro", "full", 3), ("retro", "ptuning", 1), ("retro", "lora", None),
    ],
)  # fmt: skip
def test_finetuning_is_adamw_on_the_mean_over_all_answer_tokens(tmp_path, kind, method, micro):
    """From the first token of an answer to its eos, whatever stands in which micro-batch and however it is padded."""
    recipe = {"learning_rate": 0.003, "weight_decay": 0.5, "beta2": 0.9, "max_grad_norm": 0.7, "max_steps": 5}
    stages = Stages(tmp_path, kind, method, **recipe, batch_size=4, micro_batch_size=micro, warmup_steps=2)
    seen, names = stages.finetune(), list(stages.questions)
    per_step = len(seen) // 5
    numbers = [
        [number for _, batch in seen[at : at + per_step] for number in batch] for at in range(0, len(seen), per_step)
    ]
    assert [len(step) for step in numbers] == [4] * 5
    model = stages.trainable()
    save_trained(model, tmp_path / "start")
    rates = rates_by_hand(0.003, steps=5, warmup=2, final=0.0)
    rows = [[stages.row(names[number]) for number in step] for step in numbers]
    by_hand = list(train_by_hand(model, rows, rates, decay=0.5, betas=(0.9, 0.9), clip=0.7))
    assert max(norm for _, norm in by_hand) > 0.7  # clipping shows
    check_log(stages.log(), by_hand, rates)
    save_trained(model, tmp_path / "hand")
    start, hand, found = (weights_in(folder) for folder in (tmp_path / "start", tmp_path / "hand", stages.adapter))
    assert distance(found, hand) < 0.01 * distance(hand, start)


@pytest.mark.parametrize("family", ["gpt", "retro"])
def test_pretraining_is_adamw_on_the_weighted_mean_over_all_tokens(tmp_path, family):
    pretrain(tmp_path, family, "start", steps=1, learning_rate=1e-30)  # a rate that moves nothing
    recipe = {"steps": 5, "warmup_steps": 2, "learning_rate": 0.003, "weight_decay": 0.5, "batch_size": 2}
    seen = pretrain(tmp_path, family, **recipe)
    model = load_model(tmp_path / "start").train()
    rates = rates_by_hand(0.003, steps=5, warmup=2, final=0.1)
    rows = [[document_row(number, family) for number in batch] for _, batch in seen]
    by_hand = list(train_by_hand(model, rows, rates, decay=0.5, betas=(0.9, 0.95), clip=1.0))
    assert max(norm for _, norm in by_hand) > 1.0
    check_log(read_log(tmp_path / "base"), by_hand, rates)
    start, found = weights_in(tmp_path / "start"), weights_in(tmp_path / "base")
    hand = {name: value.detach() for name, value in model.named_parameters() if name in found}
    assert distance(found, hand) < 0.01 * distance(hand, start)


@pytest.mark.parametrize(("steps", "warmup"), [(12, 3), (9, 0)])
def test_the_rate_warms_up_then_follows_a_cosine(tmp_path, steps, warmup):
    stages = Stages(tmp_path, "gpt", "lora", learning_rate=0.02, max_steps=steps, warmup_steps=warmup)
    stages.finetune()
    pretrain(tmp_path, "gpt", steps=steps, warmup_steps=warmup, learning_rate=0.01)
    for lines, peak, final in ((stages.log(), 0.02, 0.0), (read_log(tmp_path / "base"), 0.01, 0.1)):
        assert [line["step"] for line in lines] == list(range(1, steps + 1))
        expected = rates_by_hand(peak, steps, warmup, final)
        assert [line["learning_rate"] for line in lines] == pytest.approx(expected, rel=1e-9)
        assert max(expected) == expected[warmup] == peak


def test_norms_and_biases_are_not_decayed(tmp_path):
    """A rate whose gradients are clipped to nothing leaves decay alone."""
    stages = Stages(tmp_path, "retro", "full", learning_rate=0.01, weight_decay=20.0, max_grad_norm=1e-30, max_steps=1)
    stages.set("finetuning.warmup_steps", 0)
    stages.finetune()
    start, found = weights_in(stages.model_dir), weights_in(stages.adapter)
    assert {value.ndim for value in found.values()} == {1, 2}
    for name, value in found.items():
        torch.testing.assert_close(value, start[name] * (0.8 if value.ndim == 2 else 1.0), rtol=1e-5, atol=1e-6)


def test_each_epoch_of_finetuning_has_every_question_once(tmp_path):
    stages = Stages(tmp_path, "gpt", "lora", max_steps=None, epochs=3, batch_size=2)
    seen = [number for _, batch in stages.finetune() for number in batch]
    assert sorted(seen) == sorted([0, 1, 2, 3] * 3)
    per_epoch = sum(len(stages.row(name).ids) for name in stages.questions)
    assert stages.log()[-1]["tokens"] == 3 * per_epoch


LENGTHS = Random(7).choices(range(10, 99), k=4 * BUCKET_STEPS * 3)  # three buckets of batches of four


def steps_of(plan, per_step):
    return [
        [number for batch in plan[first : first + per_step] for number in batch]
        for first in range(0, len(plan), per_step)
    ]


@pytest.mark.parametrize("micro", [4, 3, 1])
def test_an_epoch_of_a_plan_has_every_example_once(micro):
    steps = steps_of(plan_batches(LENGTHS, 6 * BUCKET_STEPS, 4, micro, seed=1), -(-4 // micro))
    for epoch in (steps[: 3 * BUCKET_STEPS], steps[3 * BUCKET_STEPS :]):
        assert sorted(number for step in epoch for number in step) == list(range(len(LENGTHS)))
    assert steps == plan_batches(LENGTHS, 6 * BUCKET_STEPS, 4, 4, seed=1)  # micro-batches change no step


def rank_correlation(values):
    """Spearman's, of values with their places; ties in order of place."""
    ranks = [0] * len(values)
    for rank, place in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        ranks[place] = rank
    n = len(values)
    return 1 - 6 * sum((rank - place) ** 2 for place, rank in enumerate(ranks)) / (n * (n * n - 1))


def test_steps_come_in_no_order_of_length():
    assert rank_correlation([1, 2, 3, 4]) == 1
    found = []
    for seed in range(30):
        plan = plan_batches(LENGTHS, 3 * BUCKET_STEPS, 4, 4, seed)
        sizes = [sum(LENGTHS[number] for number in step) for step in plan]
        found.append(mean(rank_correlation(sizes[at : at + BUCKET_STEPS]) for at in range(0, len(sizes), BUCKET_STEPS)))
        assert len(set(sizes)) > BUCKET_STEPS
    assert abs(mean(found)) < 0.1  # by chance about 0.03
    assert max(map(abs, found)) < 0.7
    # nor do whole buckets: each is a sample of all lengths
    early = mean(mean(LENGTHS[n] for step in plan_batches(LENGTHS, 16, 4, 4, seed) for n in step) for seed in range(30))
    assert abs(early / mean(LENGTHS) - 1) < 0.05


def test_examples_of_a_step_are_of_similar_length():
    plan = plan_batches(LENGTHS, 3 * BUCKET_STEPS, 4, 4, seed=0)
    spread = mean(max(LENGTHS[n] for n in step) - min(LENGTHS[n] for n in step) for step in plan)
    assert spread < 0.15 * (max(LENGTHS) - min(LENGTHS))


def test_the_seed_decides_what_stands_together_and_when():
    def members(seed):
        return [frozenset(step) for step in plan_batches(LENGTHS, 3 * BUCKET_STEPS, 4, 4, seed)]

    for one, other in pairwise(range(5)):
        assert len(set(members(one)) & set(members(other))) < 5
    equal = [[sorted(step) for step in plan_batches([1, 2, 3, 4] * 16, 4, 16, 16, seed)] for seed in range(9)]
    assert len({str(plan) for plan in equal}) > 5  # one way to sort, several orders


def test_what_is_drawn_for_a_batch_depends_on_seed_and_place():
    def drawn(seed):
        batches = PlannedBatches([[0]] * 6, lambda numbers, rng: rng.random(), seed)
        return [batches[place] for place in reversed(range(6))][::-1]

    assert drawn(1) == drawn(1)
    assert len({*drawn(1), *drawn(2)}) == 12


def test_the_seed_reaches_both_trainings(tmp_path):
    stages, seen, found = Stages(tmp_path, "gpt", "lora", max_steps=6), [], []
    for seed in (0, 1):
        stages.set("seed", seed)
        seen.append(stages.finetune())
        found.append(weights_in(stages.adapter))
    assert seen[0] != seen[1]
    assert distance(*found) > 0
    base = [pretrain(tmp_path, "gpt", f"base{number}", seed=seed, batch_size=2) for number, seed in enumerate((0, 1))]
    assert base[0] != base[1]
    assert distance(*(weights_in(tmp_path / f"base{number}") for number in range(2))) > 0.1


def test_dropout_acts_in_training(tmp_path):
    losses = []
    for share in (0.0, 0.8):
        stages = Stages(tmp_path, "gpt", "adapter", learning_rate=0.05)
        stages.set("methods.m.dropout", share)
        stages.finetune()
        losses.append([line["loss"] for line in stages.log()])
    assert losses[0][0] == losses[1][0]  # a new adapter gives nothing that could be dropped
    assert losses[0][1:] != losses[1][1:]
