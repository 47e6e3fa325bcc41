"""A training on two nodes of a real Slurm, one process on each, against the same training by one process."""

import re
import time

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow
STUDY = """\
study: nodes
# Muon orthogonalizes what rounding has left of small differences: no measure of equality
pretrainings:
  reading: {optimizer: adamw, learning_rate: 0.003, embedding_learning_rate: null}
models:
  gpt-wide:
    family: gpt
    size: tiny
    pretraining: reading
    resources: {nodes: 2, gpus: 1, cpus: 2, mem_mb: 2000}
methods:
  full: {kind: full, finetuning: {learning_rate: 0.001}}
grid:
  - {models: [gpt-tiny, gpt-wide], methods: [lora, full], datasets: [nq], retrievals: [none]}
"""


def test_two_nodes_train_as_one_process(cluster, submission):
    own = submission.folder / "nodes.yaml"
    own.write_text(STUDY)
    files = ["--configfile", "config/config.yaml", "tests/workflow/smallest.yaml", str(own)]
    status, output = submission.run(*files, timeout=600)
    assert status == 0, output
    results, models = submission.folder / "results/nodes/cells", submission.folder / "resources/nodes/models"
    for method in ("lora", "full"):
        cells = [results / model / method / "nq/none/seed0" for model in ("gpt-tiny", "gpt-wide")]
        same([cell / "adapter" for cell in cells])
        assert all((cell / "metrics.json").exists() for cell in cells)
    same([models / model for model in ("gpt-tiny", "gpt-wide")])
    logs = submission.folder / "logs/nodes"
    for log in (logs / "pretrain_model/gpt-wide.log", *logs.glob("finetune_cell/gpt-wide/*/nq/none/seed0.log")):
        assert "1 processes on each of 2 nodes, 2 threads each" in log.read_text()


def same(folders):
    """The weights in two folders are the same up to rounding."""
    one, two = (
        {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}
        for folder in folders
    )
    assert one.keys() == two.keys()
    assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)


def test_a_signal_to_the_steps_lets_all_nodes_save(cluster, submission):
    """As `--signal` sends it before the time limit; nothing else saves within the first minutes."""
    own = submission.folder / "nodes.yaml"
    own.write_text(STUDY.replace("0.003, ", "0.003, steps: 300, "))
    files = ["--configfile", "config/config.yaml", "tests/workflow/smallest.yaml", str(own)]
    process = submission.start(*files, "--", "resources/nodes/models/gpt-wide/manifest.json")
    try:
        log = submission.wait_for("logs/nodes/pretrain_model/gpt-wide.log", process, seconds=300)
        limit = time.monotonic() + 60
        while "300 steps" not in log.read_text():
            assert time.monotonic() < limit, log.read_text()
            time.sleep(0.2)
        (job,) = cluster.run("squeue", "-h", "-o", "%A").split()
        cluster.run("scancel", "--signal=TERM", job)
        output, _ = process.communicate(timeout=400)
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert "resuming from " in log.read_text(), output


def test_what_is_asked_for_nodes(cluster, submission):
    own = submission.folder / "nodes.yaml"
    own.write_text(STUDY.replace("nodes: 2", "nodes: 3"))
    status, output = submission.run("--configfile", "config/config.yaml", "tests/workflow/smallest.yaml", str(own))
    assert status == 1
    assert re.search(r"models.gpt-wide.resources: nodes=3 \(at most 2\) in partition gpu\n", output), output
