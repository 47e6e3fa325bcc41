"""One real cell on Slurm that is preempted, and whose outputs appear late: it ends as if nothing had happened."""

import os
import re
import shutil
import signal

import pytest
from cluster import Submission
from study_runs import Workflow

pytestmark = pytest.mark.slow

CELL = "retro-tiny/lora/nq/words2/seed0"
FOLDER = f"results/faults/cells/{CELL}"
# long enough to be seen at work
CHANGED = ("--config", 'finetuning={"max_steps": 200}')


@pytest.fixture(scope="module")
def study(repository, tmp_path_factory):
    """The cell and all that it needs, made without Slurm."""
    files = (repository / "config/config.yaml", repository / "tests/faults/faults.yaml")
    study = Workflow(repository, tmp_path_factory.mktemp("cell"), *files)
    done = study.run(f"{FOLDER}/metrics.json", *CHANGED)
    assert done.returncode == 0, done.stderr
    study.expected = study.results()
    return study


@pytest.fixture
def typed(cluster, study):
    """Arguments that make the cell on Slurm."""
    return [*study.files, *CHANGED, "--slurm-status-command", "squeue"]


@pytest.mark.parametrize("grace", [0, 60])
def test_a_preempted_finetuning_goes_on_from_its_checkpoint(cluster, study, typed, repository, grace):
    """Without and with seconds that the partition grants: the same job, and bitwise the same weights."""
    shutil.rmtree(study.folder / "results/faults/cells")
    log = study.folder / f"logs/faults/finetune_cell/{CELL}.log"
    log.unlink()
    checkpoints = study.folder / f"results/faults/work/{CELL}/finetune"
    cluster.run("scontrol", "update", "partitionname=cpu", f"gracetime={grace}")
    submission = Submission(repository, study.folder)
    process = submission.start(*typed, f"{FOLDER}/train.json")
    try:
        submission.wait_until(lambda: list(checkpoints.glob("checkpoint-*/progress.json")), process)
        # Slurm lets it go on before it asks it to stop
        os.kill(int(re.search(r"started on \S+, process (\d+)", log.read_text())[1]), signal.SIGSTOP)
        job = cluster.run("squeue", "-h", "-t", "RUNNING", "-o", "%A").strip()
        cluster.run("sbatch", "--partition=urgent", "--cpus-per-task=8", "--output=/dev/null", "--wrap", "sleep 1")
        submission.wait_until(lambda: cluster.run("squeue", "-h", "-j", job, "-o", "%T").strip() == "PENDING", process)
        said = log.read_text()
        cluster.start_now(job)
        status = submission.end(process)
    finally:
        process.kill()
    assert re.search(r"ended: stopped by SIGTERM: .*; run again to go on", said), said
    assert status == 0, submission.said
    assert len(re.findall(r"submitted .*rule_finetune", submission.said)) == 1, "the same job, not a new attempt"
    assert "resuming from" in log.read_text()
    trained = (f"{FOLDER}/train", f"{FOLDER}/adapter/")
    expected = {path: value for path, value in study.expected.items() if path.startswith(trained)}
    assert {path: value for path, value in study.results().items() if path.startswith(FOLDER)} == expected


def test_an_output_that_appears_late_is_waited_for(cluster, study, typed, repository):
    """Also predictions that were made from what a preempted fine-tuning left are those of an undisturbed one."""
    (study.folder / FOLDER / "metrics.json").unlink(missing_ok=True)
    predictions = study.folder / FOLDER / "predictions.jsonl"
    predictions.unlink(missing_ok=True)
    cluster.hide(predictions)
    submission = Submission(repository, study.folder)
    process = submission.start(*typed, f"{FOLDER}/metrics.json", "--latency-wait", "300")
    try:
        submission.wait_until(lambda: "Waiting at most 300 seconds for missing files" in submission.said, process)
        cluster.show()
        status = submission.end(process)
    finally:
        process.kill()
    assert status == 0, submission.said
    assert study.results() == study.expected


def test_an_output_that_appears_too_late(cluster, study, typed, repository):
    """The message names the remedy, and the next run ends as if the file had been seen."""
    metrics, predictions = (study.folder / FOLDER / name for name in ("metrics.json", "predictions.jsonl"))
    metrics.unlink()
    predictions.unlink()
    cluster.hide(predictions)
    submission = Submission(repository, study.folder)
    status, output = submission.run(*typed, f"{FOLDER}/metrics.json", "--latency-wait", "1", "--retries", "0")
    assert status == 1
    assert not predictions.exists()
    assert not metrics.exists(), "scoring waits for it"
    assert "Missing files after 1 seconds" in output
    assert "consider to increase the wait time with --latency-wait" in output
    cluster.show()
    status, output = submission.run(*typed, f"{FOLDER}/metrics.json")
    assert status == 0, output
    assert study.results() == study.expected
