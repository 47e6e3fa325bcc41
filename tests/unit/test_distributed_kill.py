"""One of two processes that train together is killed: the other ends at once, and the next attempt goes on."""

import os
import sys
import time

import distributed_cases as cases
import pytest
from test_resume import contents
from test_training_stages import root

from retrotune.errors import TrainingError
from retrotune.runtime.launching import GRACE_SECONDS, Launch, run_stage

__all__ = ["root"]


def test_a_killed_process_costs_the_steps_since_the_last_checkpoint(root, monkeypatch, capfd):
    cases.skip_with_one_gpu()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    with pytest.raises(TrainingError, match="of 2 processes 1 ended without a word .exit status 1.: killed by hand or"):
        run_stage("distributed_cases:train_until_killed", Launch(processes=2), root / "work", 2, root=root)
    assert time.time() - (root / "killed").stat().st_mtime < GRACE_SECONDS + 5
    assert len(list(cases.work_of(root / "killed-cell").glob("*/checkpoint-*/progress.json"))) >= 1
    capfd.readouterr()
    run_stage("distributed_cases:train_until_killed", Launch(processes=2), root / "work", 2, root=root)
    assert "resuming from " in capfd.readouterr().err
    assert contents(root / "killed-cell") == contents(root / "undisturbed-cell")
