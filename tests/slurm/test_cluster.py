"""The typed command on a real Slurm: whose GPUs jobs see, and what happens when jobs, nodes and requests fail."""

import itertools
import re

import pytest
from cluster import Submission

pytestmark = pytest.mark.slow
# the study finds out by itself that nothing answers sacct
TOY = ("--snakefile", "tests/slurm/toy.smk", "--slurm-status-command", "squeue")


@pytest.fixture(scope="module")
def toy(cluster, repository, tmp_path_factory):
    """All toy jobs in one run, one of them canceled, and a node taken down under another."""
    run = Submission(repository, tmp_path_factory.mktemp("toy"))
    process = run.start(*TOY)
    try:
        cluster.run("scancel", run.wait_for("canceled.id", process).read_text().strip())
        cluster.take_down("gpu2", run.wait_for("moved.id", process).read_text().strip())
        run.status = run.end(process, 600)
        run.output = run.said
    finally:
        process.kill()
    return run


def read(run, name):
    return (run.folder / name).read_text().split()


def test_jobs_at_once_see_only_their_own_gpus(toy):
    jobs = [read(toy, f"gpu{index}.txt") for index in range(4)]
    assert {node for node, *_ in jobs} == {"gpu1"}
    assert all(re.fullmatch(r"\d", devices) for _, devices, *_ in jobs)
    together = [
        (one, other)
        for one, other in itertools.combinations(jobs, 2)
        if max(float(one[2]), float(other[2])) < min(float(one[3]), float(other[3]))
    ]
    assert together, "several run at once"
    assert all(one[1] != other[1] for one, other in together)


def test_two_gpus_start_one_process(toy):
    devices, cpus = read(toy, "pair.txt")
    assert len(set(devices.split(","))) == 2
    assert cpus == "3"


def test_a_job_over_its_memory_is_tried_again_with_more(toy):
    assert read(toy, "memory.txt") == ["1600"]


def test_a_job_near_its_limit_saves_and_goes_on_in_the_next_attempt(toy):
    assert read(toy, "limit.txt") == ["half"]


def test_failed_and_canceled_jobs_are_tried_again(toy):
    assert (toy.folder / "flaky.txt").exists()
    assert (toy.folder / "canceled.txt").exists()


def test_slurm_requeues_the_job_of_a_node_that_goes_down(toy):
    assert read(toy, "moved.txt") == read(toy, "moved.id"), "the same job, not a new attempt"
    assert (toy.folder / "moved.txt").stat().st_mtime > (toy.folder / "moved.id").stat().st_mtime


def test_a_dead_job_does_not_stop_the_others_and_shows_its_log(toy):
    assert toy.status == 1
    assert not (toy.folder / "dead.txt").exists()
    assert len(re.findall(r"submitted .*rule_dead", toy.output)) == 3, "the first attempt and two retries"
    assert "no use" in toy.output
    assert not re.search(r"Error in rule (gpu|pair)", toy.output)


def test_what_would_not_reach_the_jobs_is_refused(cluster, submission):
    status, output = submission.run("--configfile", "config/config.yaml", "--config", "select={'model': 'gpt-tiny'}")
    assert status == 1
    assert "Snakemake does not pass apostrophes on to jobs: use double quotes" in output
    assert "submitted" not in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--default-resources", "slurm_partition=cpu", "gpu_partition=a100"],
            "no partition a100 on this cluster, which has cpu, gpu, urgent. Edit .*/slurm/config.yaml, line 4: gpu",
        ),
        (
            ["--config", 'models={"gpt-tiny": {"resources": {"gpus": 8}}}'],
            r"models.gpt-tiny.resources: gpus=8 \(at most 4\) in partition gpu\n",
        ),
        (
            ["--config", 'models={"gpt-tiny": {"resources": {"gpus": 1, "runtime": 500}}}'],
            r"models.gpt-tiny.resources: runtime=500 \(at most 240\) in partition gpu\n",
        ),
    ],
)
def test_what_the_cluster_cannot_give_is_refused_at_once(cluster, submission, arguments, message):
    status, output = submission.run("--configfile", "config/config.yaml", *arguments)
    assert status == 1
    assert re.search(message, output), output
    assert "submitted" not in output
    assert "Traceback" not in output


def test_a_folder_that_a_node_does_not_share(cluster, submission):
    with cluster.unseen("cpu1", submission.folder):
        status, output = submission.run(
            "--configfile", "config/config.yaml", "--retries", "0", "resources/demo/raw/world.json"
        )
    assert status == 1
    asked = f"failed without a line in Slurm's log. Did a node not see {submission.folder}?"
    assert re.search(rf"\b\d+ {re.escape(asked)}", output), output


def test_a_head_that_is_a_job(cluster, repository, submission):
    """Near its time limit it cancels its jobs and is requeued; then it goes on."""
    folder = str(submission.folder)
    arguments = [*TOY, "--directory", folder, "--slurm-logdir", f"{folder}/logs", *submission.PACE, "canceled.txt"]
    script = str(repository / "profiles/slurm-head/head.sh")
    job = cluster.run("sbatch", "--parsable", f"--chdir={repository}", script, *arguments).strip()
    log = repository / f"logs/slurm/head-{job}.log"

    def state(of=job):
        return cluster.run("squeue", "-h", "-t", "all", "-j", of, "-o", "%T").strip()

    try:
        submission.wait_until(lambda: state() == "RUNNING")
        cell = submission.wait_for("canceled.id", seconds=300).read_text().strip()
        cluster.run("scancel", "--batch", "--signal=USR1", job)
        # back in the queue; Slurm first waits for the node to let go of the job
        submission.wait_until(lambda: state() == "PENDING", seconds=300)
        submission.wait_until(lambda: state(cell) == "CANCELLED")
        cluster.start_now(job)
        submission.wait_until(lambda: state() == "COMPLETED", seconds=300)
        assert (submission.folder / "canceled.txt").exists()
    except AssertionError as error:
        raise AssertionError(f"{error}\njob {job}: {state()}\n{log.read_text() if log.exists() else ''}") from None
    finally:
        log.unlink(missing_ok=True)
