"""Two processes that train together: as one does, up to rounding; stopped anywhere, to the same bits."""

import json
import os
import sys

import distributed_cases as cases
import pytest
import torch
from test_resume import contents
from test_training_stages import root

from retrotune.errors import TrainingError
from retrotune.methods import load_trained
from retrotune.models.loading import load_model
from retrotune.runtime.launching import Launch, run_stage
from retrotune.training.distributed import ALONE, Processes, check_shares, own_rows, summed_if_known

__all__ = ["root"]
TRAININGS = [
    *(f"retro-{name}" for name in ("lora", "adapter", "ptuning", "full", "base")),
    *("gpt-lora", "gpt-base", "llama-full", "closed", "three"),
]


@pytest.fixture(scope="module")
def trained(root):
    """All trainings by two processes, and by this one."""
    cases.skip_with_one_gpu()
    cases.add_llama(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))  # stages of the tests, too
        run_stage("distributed_cases:train_all", Launch(processes=2), root / "work", 2, root=root)
    assert not (root / "work-processes").exists()
    cases.trainings(root, root / "alone", False)
    cases.finetune(root, root / "alone" / "one", "gpt", cases.LORA, batch_size=1)
    return root


def lines(folder):
    return [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", cases.KINDS)
@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_train_as_one(trained, kind, name):
    one, two = trained / "alone" / name, trained / kind / name
    expected, found = cases.weights(one), cases.weights(two)
    assert found.keys() == expected.keys()
    assert expected
    assert all(torch.allclose(found[key], expected[key], atol=2e-5) for key in expected)
    assert all(found[key].dtype == expected[key].dtype for key in expected)
    for mine, theirs in zip(lines(one), lines(two), strict=True):
        assert mine["tokens"] == theirs["tokens"]
        assert theirs["loss"] == pytest.approx(mine["loss"], rel=1e-4)
        assert theirs["grad_norm"] == pytest.approx(mine["grad_norm"], rel=1e-3, abs=1e-6)
    if (one / "train.json").exists():
        summaries = [json.loads((folder / "train.json").read_text()) for folder in (one, two)]
        for key in ("steps", "tokens", "num_trainable_params", "num_total_params", "adapter_bytes", "inputs"):
            assert summaries[0][key] == summaries[1][key]
        assert [summary["num_devices"] for summary in summaries] == [1, 2]
        load_trained(load_model(trained / ("retro" if "-" not in name else name.split("-")[0])), two / "adapter")
    else:
        manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (one, two)]
        for key in ("num_parameters", "num_non_embedding_parameters", "tokens", "num_sequences"):
            assert manifests[0][key] == manifests[1][key]
        assert [manifest["num_devices"] for manifest in manifests] == [1, 2]
        load_model(two)
    assert not cases.work_of(two).exists() or not any(cases.work_of(two).iterdir())


@pytest.mark.parametrize(("kind", "method"), [(kind, method.kind) for kind, method in cases.STOPPED])
def test_a_signal_at_any_process_stops_all_after_the_same_step(trained, kind, method):
    said = [(trained / kind / f"stopped-{method}-{rank}.txt").read_text().splitlines() for rank in (0, 1)]
    steps = [[line.split("step ")[1].split(" is saved")[0] for line in one] for one in said]
    assert steps == [["2 of 4", "3 of 4"]] * 2
    assert contents(trained / kind / f"stopped-{method}") == contents(trained / kind / f"undisturbed-{method}")


def test_more_processes_than_sequences(trained):
    message = (trained / "refused.txt").read_text()
    assert message.startswith("batch_size=1 leaves 1 of 2 processes without work: raise it, or ask for fewer GPUs")
    expected, found = (cases.weights(trained / kind / "one") for kind in ("alone", "sharded"))
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[key], expected[key], atol=2e-5) for key in expected)


def test_a_number_that_one_process_does_not_know_has_no_sum(trained):
    assert [json.loads((trained / f"summed-{rank}.json").read_text()) for rank in (0, 1)] == [[2.0, None]] * 2
    assert [summed_if_known(value, ALONE) for value in (1.5, None)] == [1.5, None]


def test_processes_draw_different_numbers(trained):
    one, two = (torch.load(trained / f"drawn-{rank}.pt") for rank in (0, 1))
    assert not torch.equal(one, two)
    seeds = {Processes(rank, 8).seed(7) for rank in range(8)}
    assert len(seeds) == 8
    assert ALONE.seed(7) == Processes(0, 8).seed(7) == 7


def test_rows_are_dealt_and_none_is_lost():
    labels = torch.arange(10).view(5, 2)
    dealt = [own_rows({"labels": labels}, Processes(rank, 3))["labels"] for rank in range(3)]
    assert sorted(row for rows in dealt for row in rows.tolist()) == labels.tolist()
    idle = own_rows({"labels": labels, "input_ids": labels}, Processes(6, 7))
    assert idle["labels"].tolist() == [[-100, -100]]
    assert idle["input_ids"].tolist() == [[0, 1]]
    check_shares(2, Processes(0, 2))
    check_shares(1, Processes(1, 2, sharded=True))
    with pytest.raises(TrainingError, match="batch_size=4 leaves 4 of 8 processes without work"):
        check_shares(4, Processes(0, 8))
