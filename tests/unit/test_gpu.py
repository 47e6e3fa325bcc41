"""On a computer with GPUs: training over NCCL with sharded weights, in either precision, is that of one process."""

import os
import subprocess
import sys

import distributed_cases as cases
import pytest
import torch
from test_training_stages import root

from retrotune.runtime.files import read_json

__all__ = ["root"]
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
TOLERANCE = {"float32": 2e-5, "bfloat16": 2e-3}


@pytest.fixture(scope="module")
def trained(root):
    """Trainings by one process without torchrun, and by as many as there are GPUs (one is enough), sharded."""
    script = "import sys; from pathlib import Path; import distributed_cases; "
    script += "distributed_cases.train_on_gpus(Path(sys.argv[1]))"
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={torch.cuda.device_count()}"]
    (root / "run.py").write_text(script, encoding="utf-8")
    for start in ([], torchrun):
        command = [sys.executable, *start, str(root / "run.py"), str(root)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-5000:]
    return root


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("name", cases.ON_GPUS)
def test_sharded_over_nccl_is_as_one_process(trained, precision, name):
    one, all_gpus = (trained / f"{count}-{precision}" / name for count in ("alone", "together"))
    expected, found = cases.weights(one), cases.weights(all_gpus)
    assert found.keys() == expected.keys()
    assert expected
    for key, value in expected.items():
        assert found[key].dtype == value.dtype
        assert torch.allclose(found[key].float(), value.float(), atol=TOLERANCE[precision])
    assert read_json(all_gpus / "train.json")["peak_memory_bytes"] > 0
