"""The loop: plans, losses, optimizers, checkpoints."""

import json
import math
import shutil
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM, TrainerControl, TrainerState

from retrotune.errors import TrainingError
from retrotune.runtime.log import logger
from retrotune.study.config import SaveEvery
from retrotune.training.checkpoints import last_checkpoint
from retrotune.training.course import Course, Schedule
from retrotune.training.distributed import ALONE
from retrotune.training.loop import run_training, weighted_loss
from retrotune.training.optimizers import adamw, cosine_schedule, muon, orthogonalized, split_parameters
from retrotune.training.planned import PlannedBatches, plan_batches, total_weight

ROWS = [[number, number + 1, number + 2, number + 3] for number in range(2, 10)]


def tiny_model(**changes):
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=16, max_position_embeddings=32, **shape, **changes))


def collate(numbers: list[int], rng: Random) -> dict[str, torch.Tensor]:
    ids = torch.tensor([ROWS[number] for number in numbers])
    weights = torch.tensor([[1.0, 1.0, 0.5, rng.random()] for _ in numbers])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids, "loss_weights": weights}


def train(folder, steps=6, micro=4, optimizer="muon", save_every=1000, identity="run", stop_at=None, rate=0.02):
    model = tiny_model()
    plan = plan_batches([4] * len(ROWS), steps, 4, micro, seed=3)

    class Batches(PlannedBatches):
        def __getitem__(self, position):
            if position == stop_at:
                raise KeyboardInterrupt
            return super().__getitem__(position)

    outcome = run_training(
        model,
        Batches(plan, collate, seed=3),
        muon(model, rate, rate, 0.1) if optimizer == "muon" else adamw(model, rate, 0.1, (0.9, 0.95)),
        Schedule(steps, 4 // micro, warmup_steps=2, final_share=0.1, max_grad_norm=1.0, bfloat16=False, seed=3),
        work_dir=folder / "work",
        log_path=folder / "log.jsonl",
        identity=identity,
        save_every=SaveEvery(steps=save_every),
    )
    return model, outcome


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 99), min_size=1, max_size=30), st.integers(1, 40), st.integers(1, 9), st.data())
def test_every_step_is_full_and_examples_take_turns(lengths, steps, batch_size, data):
    micro = data.draw(st.integers(1, batch_size))
    plan = plan_batches(lengths, steps, batch_size, micro, seed=1)
    assert plan == plan_batches(lengths, steps, batch_size, micro, seed=1)
    per_step = -(-batch_size // micro)
    assert len(plan) == steps * per_step
    assert all(sum(map(len, plan[first : first + per_step])) == batch_size for first in range(0, len(plan), per_step))
    counts = [sum(batch.count(number) for batch in plan) for number in range(len(lengths))]
    assert max(counts) - min(counts) <= 1


def test_batches_hold_examples_of_similar_length():
    rng = Random(0)
    lengths = [rng.randrange(1, 200) for _ in range(640)]
    plan = plan_batches(lengths, 80, 8, 8, seed=1)
    padded = sum(max(lengths[number] for number in batch) * 8 for batch in plan)
    assert padded < 1.1 * sum(lengths)


def test_loss_is_the_weighted_mean_of_predicted_tokens():
    logits = torch.randn(2, 3, 5)
    labels = torch.tensor([[4, 1, -100], [2, 3, 0]])
    token_weights = torch.tensor([[9.0, 0.5, 7.0], [9.0, 2.0, 1.0]])
    batch = {"labels": labels, "loss_weights": token_weights}
    log = logits.log_softmax(-1)
    expected = -(0.5 * log[0, 0, 1] + 2.0 * log[1, 0, 3] + 1.0 * log[1, 1, 0]) / 3.5
    assert total_weight(batch) == 3.5
    assert torch.allclose(weighted_loss(logits, labels, token_weights, total_weight(batch)), expected)
    assert total_weight({"labels": labels}) == 3


def test_muon_gets_hidden_matrices_and_adamw_everything_else():
    for tied in (True, False):
        model = tiny_model(tie_word_embeddings=tied)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        matrices, others = split_parameters(model)
        assert {names[id(parameter)].split(".")[-2] for parameter in matrices} == {
            *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        }
        rest = {names[id(parameter)] for parameter in others}
        assert {"model.embed_tokens.weight", "model.norm.weight"} <= rest
        assert ("lm_head.weight" in rest) is not tied
        assert len(matrices) + len(others) == len(names)


def test_adamw_trains_some_parameters_at_a_rate_of_their_own_and_decays_matrices_only():
    model = tiny_model()
    model.model.embed_tokens.requires_grad_(False)
    apart = list(model.model.layers[0].parameters())
    optimizer = adamw(model, 0.1, 0.3, (0.9, 0.95), apart, 0.2)
    found = {id(value): group for group in optimizer.param_groups for value in group["params"]}
    assert len(found) == len(list(model.parameters())) - 1
    for value in model.parameters():
        if value.requires_grad:
            group = found[id(value)]
            expected = (0.2 if any(value is other for other in apart) else 0.1, 0.3 if value.ndim == 2 else 0.0)
            assert (group["lr"], group["weight_decay"]) == expected
    assert {group["lr"] for group in adamw(model, 0.1, 0.3, (0.9, 0.95), apart).param_groups} == {0.1}


@pytest.mark.parametrize("shape", [(6, 6), (4, 10), (10, 4)])
def test_orthogonalized_moves_singular_values_and_keeps_directions(shape):
    """Against the polynomial of the singular values of a decomposition, in double precision."""
    torch.manual_seed(0)
    matrix = torch.randn(shape, dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    values = values / values.norm()
    a, b, c = coefficients = (3.4445, -4.775, 2.0315)
    for _ in range(5):
        values = a * values + b * values**3 + c * values**5
    found = orthogonalized(matrix, coefficients, 5, 1e-7)
    assert torch.allclose(found, left @ torch.diag(values) @ right, atol=1e-10)
    assert ((values > 0.6) & (values < 1.3)).all()


def test_muon_in_float32_is_torchs_but_for_the_rounding_of_bfloat16():
    models = [tiny_model(), tiny_model()]
    models[1].load_state_dict(models[0].state_dict())
    first = {name: value.clone() for name, value in models[0].named_parameters()}
    optimizers = [
        muon(model, 0.02, 0.01, 0.1, precision)
        for model, precision in zip(models, ("bfloat16", "float32"), strict=True)
    ]
    generator = torch.Generator().manual_seed(3)
    for _ in range(3):
        for name, value in models[0].named_parameters():
            value.grad = torch.randn(value.shape, generator=generator)
            dict(models[1].named_parameters())[name].grad = value.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for name, value in models[1].named_parameters():
        expected, moved = dict(models[0].named_parameters())[name], (value - first[name]).norm()
        assert (value - expected).norm() < 0.02 * moved, name
        assert moved > 0


def test_schedule_moves_every_part_of_a_combined_optimizer():
    optimizer = muon(tiny_model(), 0.1, 0.01, 0.0)
    schedule = cosine_schedule(optimizer, steps=10, warmup_steps=4, final_share=0.1)
    rates = []
    for _ in range(11):
        rates.append([part.param_groups[0]["lr"] for part in optimizer.parts])
        optimizer.step()
        schedule.step()
    assert all(math.isclose(first, 10 * second) for first, second in rates)
    assert [round(first, 6) for first, _ in rates[:5]] == [0.02, 0.04, 0.06, 0.08, 0.1]
    assert math.isclose(rates[10][0], 0.01)


def test_loss_falls_and_every_step_is_logged(tmp_path):
    _, outcome = train(tmp_path, steps=40)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 41))
    assert lines[-1]["loss"] < 0.3 * lines[0]["loss"]
    assert any(line["seconds"] % 1 for line in lines)
    assert (outcome.steps, outcome.tokens, outcome.final_loss) == (40, 40 * 16, lines[-1]["loss"])


def test_logits_are_computed_only_where_a_token_is_predicted(tmp_path):
    model, widths = tiny_model(), []
    model.lm_head.register_forward_hook(lambda module, inputs, logits: widths.append(logits.shape[1]))

    def answers_only(numbers, rng):
        batch = {key: value for key, value in collate(numbers, rng).items() if key != "loss_weights"}
        first = torch.tensor([2 if number % 2 else 3 for number in numbers])[:, None]
        return batch | {"labels": batch["labels"].masked_fill(torch.arange(4) < first, -100)}

    schedule = Schedule(1, 3, 0, 0.1, max_grad_norm=1.0, bfloat16=False, seed=3)
    batches = PlannedBatches([[0, 2], [0, 1], [4]], answers_only, seed=3)
    run_training(model, batches, adamw(model, 0.01, 0.0, (0.9, 0.95)), schedule, tmp_path, tmp_path / "log", "run")
    assert widths == [2, 3, 2]


def test_same_seed_gives_the_same_weights_and_micro_batches_do_not_matter(tmp_path):
    whole, again = weights(train(tmp_path)[0]), weights(train(tmp_path)[0])
    assert torch.equal(whole, again)
    # The weights of the tokens are drawn per micro-batch, so compare plans that draw nothing.
    plain = []
    for micro in (4, 1):
        model = tiny_model()
        batches = PlannedBatches(plan_batches([4] * 8, 3, 4, micro, seed=3), lambda numbers, rng: {
            key: value for key, value in collate(numbers, rng).items() if key != "loss_weights"}, seed=3)  # fmt: skip
        schedule = Schedule(3, 4 // micro, 0, 0.1, max_grad_norm=1.0, bfloat16=False, seed=3)
        optimizer = adamw(model, 0.01, 0.0, (0.9, 0.95))
        run_training(model, batches, optimizer, schedule, tmp_path / "work", tmp_path / "log", str(micro))
        plain.append(weights(model))
    assert torch.allclose(*plain, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_an_interrupted_run_resumes_to_the_same_weights(tmp_path, optimizer):
    expected, outcome = train(tmp_path / "whole", steps=6, micro=2, optimizer=optimizer)
    cut = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        train(cut, steps=6, micro=2, optimizer=optimizer, save_every=1, stop_at=8)
    checkpoint, _ = last_checkpoint(cut / "work")
    assert checkpoint.name == "checkpoint-3"
    # A checkpoint that was being written when the process died is not used.
    shutil.copytree(checkpoint, cut / "work" / "checkpoint-5")
    (cut / "work" / "checkpoint-5" / "progress.json").unlink()
    resumed, again = train(cut, steps=6, micro=2, optimizer=optimizer, save_every=1)
    assert torch.equal(weights(expected), weights(resumed))
    assert (again.steps, again.tokens, again.final_loss) == (outcome.steps, outcome.tokens, outcome.final_loss)
    lines = [json.loads(line) for line in (cut / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]


def test_checkpoints_of_another_run_are_not_resumed(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, save_every=1, stop_at=3, rate=0.5)
    resumed, _ = train(tmp_path, identity="another run")
    assert torch.equal(weights(resumed), weights(train(tmp_path / "fresh")[0]))


def test_how_it_goes_is_told_by_time_however_seldom_losses_are_kept(monkeypatch, caplog):
    """Steps of 4 s, losses 1, 2, 3, ... of which every fifth step keeps the mean: a line each 10 s, not each 20."""
    clock = [0.0]
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level("INFO", logger="retrotune")
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    schedule = Schedule(8, 1, warmup_steps=0, final_share=0, max_grad_norm=1, bfloat16=False, seed=0, log_every=5)
    course, state, control = Course(schedule, SaveEvery(), ALONE), TrainerState(), TrainerControl()
    course.on_train_begin(None, state, control)
    for step in range(1, 9):
        clock[0] += 4
        state.global_step, course.tokens = step, 100 * step
        course.loss += float(step)
        course.on_step_end(None, state, control)
        if step in (5, 8):
            course.on_log(None, state, control, {"loss": 0.0, "learning_rate": 0.1})
    course.on_train_end(None, state, control)
    assert caplog.messages == [
        "step 1 of 8: loss 1.000, 25 tokens/s, 28 s left",
        "step 4 of 8: loss 2.500, 25 tokens/s, 16 s left",
        "step 7 of 8: loss 6.500, 25 tokens/s, 4 s left",
        "trained 8 steps, 800 tokens in 32 s: loss 7.000, 25 tokens/s",
    ]
    assert [line["loss"] for line in course.lines] == [3, 7]


def test_a_diverged_run_stops_with_its_step(tmp_path):
    with pytest.raises(TrainingError, match=r"step \d+: the loss is .*lower the learning rate"):
        train(tmp_path, optimizer="adamw", rate=float("inf"))
