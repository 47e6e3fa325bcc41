"""Energy by NVIDIA's counter, with a library made by hand: no GPU is needed."""

import itertools
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_generate import Study, interrupted, model_dir, study

from retrotune.prediction import generate
from retrotune.runtime.energy import EnergyMeter
from retrotune.runtime.files import read_json, read_jsonl, write_jsonl
from retrotune.runtime.log import logger
from retrotune.study.config import SaveEvery
from retrotune.training import course as course_module
from retrotune.training.course import Course, Schedule
from retrotune.training.distributed import ALONE

__all__ = ["model_dir", "study"]


class Nvml:
    """The driver's library: a counter of millijoules for each UUID; `broken` functions raise."""

    def __init__(self) -> None:
        self.counters = {"GPU-a": 5_000_000, "GPU-b": 70_000, "GPU-c": 9}
        self.broken: set[str] = set()

    def _called(self, name: str) -> None:
        if name in self.broken:
            raise RuntimeError(f"{name} is not supported")

    def nvmlInit(self) -> None:
        self._called("nvmlInit")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        self._called("nvmlDeviceGetHandleByUUID")
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        self._called("nvmlDeviceGetTotalEnergyConsumption")
        return self.counters[handle]


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    """A computer with GPUs a, b and c, of which torch sees b, then a, as CUDA_VISIBLE_DEVICES=1,0 leaves them."""
    library = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", library)  # type: ignore[arg-type]
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: SimpleNamespace(uuid="ba"[number]))
    return library


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level("INFO", logger="retrotune")
    return caplog


@pytest.mark.parametrize(("numbers", "expected"), [([0], 1.5), ([1], 20.0), ([0, 1], 21.5)])
def test_joules_are_those_of_the_gpus_that_torch_numbers_so(nvml: Nvml, numbers: list[int], expected: float) -> None:
    meter = EnergyMeter(numbers)
    assert meter.joules == 0
    for gpu, taken in (("GPU-a", 20_000), ("GPU-b", 1500), ("GPU-c", 7)):
        nvml.counters[gpu] += taken
    assert meter.joules == expected


def test_without_gpus_nothing_is_measured_and_nothing_said(nvml: Nvml, said: pytest.LogCaptureFixture) -> None:
    nvml.broken = {"nvmlInit"}
    assert EnergyMeter([]).joules is None
    assert said.messages == []


@pytest.mark.parametrize("function", ["nvmlInit", "nvmlDeviceGetHandleByUUID", "nvmlDeviceGetTotalEnergyConsumption"])
def test_what_the_driver_refuses_is_no_error(nvml: Nvml, said: pytest.LogCaptureFixture, function: str) -> None:
    nvml.broken = {function}
    meter = EnergyMeter([0])
    assert (meter.joules, meter.joules) == (None, None)
    assert said.messages == [f"energy is not measured: {function} is not supported"]


def test_without_the_library_the_log_says_so(
    nvml: Nvml, said: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert EnergyMeter([0]).joules is None
    assert len(said.messages) == 1
    assert "pynvml" in said.messages[0]


def test_a_lost_gpu_or_a_driver_loaded_anew_ends_the_measurement(nvml: Nvml, said: pytest.LogCaptureFixture) -> None:
    meter, other = EnergyMeter([0]), EnergyMeter([1])
    nvml.counters["GPU-b"] = 0
    del nvml.counters["GPU-a"]
    assert (meter.joules, other.joules) == (None, None)
    nvml.counters |= {"GPU-a": 2**40, "GPU-b": 2**40}
    assert (meter.joules, other.joules) == (None, None), "once it is wrong it stays unknown"
    assert said.messages[0] == "energy is not measured: the driver was loaded anew"


# an interrupted training ------------------------------------------------------------------------------------------
def resumed(state: dict[str, Any], now: float | None, monkeypatch: pytest.MonkeyPatch) -> Course:
    """A training that goes on from `state`, and whose GPU has taken `now` joules since."""
    monkeypatch.setattr(course_module, "EnergyMeter", lambda numbers: SimpleNamespace(joules=now))
    schedule = Schedule(8, 1, warmup_steps=0, final_share=0, max_grad_norm=1, bfloat16=False, seed=0)
    course = Course(schedule, SaveEvery(), ALONE)
    if state:
        course.restore(state)
    course.on_train_begin(None, None, None)
    course.measure_energy()
    return course


@pytest.mark.parametrize(
    ("first", "second", "expected"), [(100.0, 20.5, 120.5), (None, 20.5, None), (100.0, None, None)]
)
def test_energy_before_an_interruption_counts(
    first: float | None, second: float | None, expected: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = resumed({}, first, monkeypatch).state()
    assert saved["joules"] == first
    assert resumed(saved, second, monkeypatch).joules == expected
    del saved["joules"]
    assert resumed(saved, second, monkeypatch).joules is None, "a checkpoint of an earlier version says nothing"


# an interrupted prediction ----------------------------------------------------------------------------------------
def test_energy_of_each_answer_is_kept(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """4, 4 and 1 questions; the meter goes up by 6 joules from each reading to the next."""
    assert study.predict(study.cell())
    assert (read_json(study.summary)["energy_joules"], read_json(study.summary)["num_devices"]) == (None, 1)
    readings = (6.0 * number for number in itertools.count())
    meter = type("Meter", (), {"joules": property(lambda self: next(readings))})
    monkeypatch.setattr(generate, "EnergyMeter", lambda numbers: meter())
    interrupted(study, monkeypatch)
    assert [line.get("joules") for _, line in read_jsonl(study.partial)] == [None, *8 * [1.5]]
    study.predict(study.cell())
    assert read_json(study.summary)["energy_joules"] == 18
    interrupted(study, monkeypatch)
    identity, *lines = [line for _, line in read_jsonl(study.partial)]
    for line in lines:
        del line["joules"]  # as earlier versions kept them
    write_jsonl(study.partial, [identity, *lines])
    study.predict(study.cell())
    assert read_json(study.summary)["energy_joules"] is None
