"""The smallest study from nothing to its tables, on nodes of both partitions, looked at while it runs."""

import re
import time

import pytest
from cluster import Submission
from study_runs import Workflow, differing

from retrotune.report.standing.standings import STATES

pytestmark = pytest.mark.slow

# GPT on nodes with GPUs, RETRO on the other
ASKED = 'models={"gpt-tiny": {"resources": {"gpus": 1, "mem_mb": 2000}}, "retro-tiny": {"resources": {"mem_mb": 2000}}}'
STAGES = re.compile("(finetune|predict)_cell")


@pytest.fixture(scope="module")
def files(repository):
    return repository / "config/config.yaml", repository / "tests/workflow/smallest.yaml"


@pytest.fixture(scope="module")
def study(cluster, repository, files, tmp_path_factory):
    """The study after its run on Slurm, with what was said and seen meanwhile."""
    study = Workflow(repository, tmp_path_factory.mktemp("study"), *files)
    submission = Submission(repository, study.folder)
    left = ["--parsable", "--job-name=retrotune_killed", f"--chdir={study.folder}", "--output=/dev/null"]
    study.left = cluster.run("sbatch", *left, "--wrap", "sleep 3600").strip()
    study.seen = []

    def look():
        """Slurm's jobs for cells with their states, and numbers of cells with results, and with answers only.

        A job ends some time after its result. Answers are scored where Snakemake runs, without a job.
        """
        jobs = cluster.run("squeue", "-h", "--me", "-o", "%A|%T|%k").splitlines()
        results, answers = (
            len(list(study.folder.glob(f"results/*/cells/*/*/*/*/*/{name}")))
            for name in ("metrics.json", "predict.json")
        )
        return sorted(job.split("|") for job in jobs if STAGES.search(job)), results, answers - results

    process = submission.start(*study.files, "--config", ASKED)
    try:
        while process.poll() is None:
            before = look()
            printed = study.retrotune("status")
            # jobs may start and end meanwhile
            if process.poll() is None and look() == before:
                study.seen.append((before, printed))
            time.sleep(1)
        study.output = submission.said
    finally:
        process.kill()
        cluster.run("scancel", study.left)
    assert process.returncode == 0, study.output
    return study


def read_counts(printed):
    return {state: int(re.search(rf"(\d+) {state}\b", printed)[1]) for state in STATES}


def test_results_are_those_of_a_run_without_slurm(study, repository, files, tmp_path):
    local = Workflow(repository, tmp_path, *files)
    done = local.run()
    assert done.returncode == 0, done.stderr
    expected = local.results()
    assert sum(path.endswith("/metrics.json") for path in expected) == 10
    assert sum("/tables/" in path for path in expected) == 4
    assert differing(study.results(), expected) == []


def test_the_state_of_cells_while_jobs_run(study):
    looks = [(*seen, read_counts(printed)) for seen, printed in study.seen]
    for jobs, results, answered, counts in looks:
        running = sum(state != "PENDING" for _, state, _ in jobs)
        # of a job that several rules share, its log says that it runs: until its imports are done it counts as queued
        unsaid = sum(state != "PENDING" and "_wildcards_" not in comment for _, state, comment in jobs)
        # a job ends some time after its cell has a result, which may already count as done then
        assert counts["running"] <= running + answered, jobs
        assert counts["done"] <= results, jobs
        seen = counts["running"] + counts["done"]
        # answers wait to be scored, and the job that gave them may not have ended
        assert max(running - unsaid - answered, results) <= seen <= running + results + answered, jobs
        assert counts["failed"] == 0
        assert counts["missing"] in (0, 10), "the others wait, as soon as Snakemake has a plan"
        assert sum(counts.values()) == 10
    assert any(counts["running"] and counts["queued"] for *_, counts in looks)
    assert any(counts["running"] and counts["done"] for *_, counts in looks)


def test_the_state_of_cells_afterwards(study):
    assert read_counts(study.retrotune("status")) == dict.fromkeys(STATES, 0) | {"done": 10}


def test_jobs_of_a_killed_head_are_named(study):
    assert f"scancel {study.left}\n" in study.output
    assert "no accounting answers sacct" in study.output


def test_nothing_is_left_to_do(study, repository):
    status, output = Submission(repository, study.folder).run(*study.files, "--config", ASKED)
    assert status == 0
    assert "Nothing to be done" in output
