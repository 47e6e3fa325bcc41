"""What jobs ask of a cluster: by entry, and more with each attempt up to what the partition has."""

from types import SimpleNamespace

from rerun_cases import STUDY

from retrotune.runtime.slurm.limits import CPU_PARTITION, GPU_PARTITION, Limits
from retrotune.study.config import load_config
from retrotune.study.requests import Requests

PROFILE = {CPU_PARTITION: "cpu", GPU_PARTITION: "gpu", "gpu_type": "a100", "gpu_constraint": "big"}
GPUS = {"gpus": 2, "mem_mb": 3000, "runtime": 50}
JOB = SimpleNamespace(model="trained")


def requests() -> Requests:
    models = {**STUDY["models"], "trained": {**STUDY["models"]["gpt"], "resources": GPUS}}
    return Requests(load_config({**STUDY, "models": models, "rule_resources": {"build_index": {"cpus": 3}}}), PROFILE)


def test_each_attempt_gets_more_up_to_what_its_partition_has():
    asked = requests()
    asked.limits[GPU_PARTITION] = Limits(gpus=8, cpus=8, mem_mb=7000, runtime=None)
    resources = asked.resources()
    assert [resources["mem_mb"](JOB, attempt) for attempt in (1, 2, 3)] == [3000, 6000, 7000]
    assert [resources["runtime"](JOB, attempt) for attempt in (1, 3)] == [50, 150]


def test_words_of_the_profile_for_jobs_with_gpus_only():
    asked, keys = requests(), ("slurm_partition", "gpu", "gpu_model", "constraint")
    assert [asked.resources()[key](JOB) for key in keys] == ["gpu", 2, "a100", "big"]
    assert [asked.resources("build_index")[key](JOB) for key in keys] == ["cpu", None, None, None]
    assert asked.cpus("build_index")(JOB) == 3


def test_requests_are_named_by_the_key_that_makes_them():
    jobs = [("finetune_cell", {"model": "trained"}), ("cache_retrofitting_neighbors", {}), ("make_tables", {})]
    assert list(requests().by_entry(jobs)) == [
        "models.trained.resources",
        "rule_resources.cache_pretraining_neighbors",
    ]
