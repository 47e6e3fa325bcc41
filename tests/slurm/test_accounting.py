"""The same with a database of jobs and accounts, as most clusters have it."""

import pytest

pytestmark = pytest.mark.slow


def test_with_accounting(accounting, submission):
    """An account that is not the user's is named with the others; a canceled job's state is known."""
    default = ["--default-resources", "slurm_partition=cpu", "gpu_partition=gpu"]
    status, output = submission.run(*default, "slurm_account=chemistry", "--configfile", "config/config.yaml")
    assert status == 1
    assert "account chemistry is not yours on this cluster; yours are root, science." in output
    toy = ["--snakefile", "tests/slurm/toy.smk", "--retries", "0", "flaky.txt", "dead.txt", "gpu0.txt"]
    status, output = submission.run(*default, "slurm_account=science", *toy)
    assert status == 1
    assert (submission.folder / "gpu0.txt").exists()
    assert "SLURM status is: 'FAILED'. Reason:" in output
