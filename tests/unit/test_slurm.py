"""What a cluster offers against what a study asks for, with commands that answer like Slurm's."""

import pytest

from retrotune.errors import ClusterError
from retrotune.runtime.slurm import limits, queue
from retrotune.study.config import ModelResources, Resources

SINFO = """\
cpu|1-00:00:00|32|128000|(null)
gpu|4:00:00|64|512000|gpu:a100:4(S:0-1)
gpu|4:00:00|128|1024000|gpu:a100:2,gpu:h100:6(S:0-1),shard:8
long|infinite|16|64000|(null)
"""
DEFAULTS = {limits.CPU_PARTITION: "cpu,long", limits.GPU_PARTITION: "gpu", limits.ACCOUNT: None}


@pytest.fixture
def answers(tmp_path, monkeypatch):
    """Makes a command that prints a text and ends with a status; no other command is there."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def answer(command, text="", status=0):
        (tmp_path / command).write_text(f"#!/bin/sh\n/bin/cat <<'END'\n{text}END\nexit {status}\n")
        (tmp_path / command).chmod(0o755)

    for command in limits.COMMANDS:
        answer(command)
    answer("sinfo", SINFO)
    return answer


@pytest.fixture
def profile(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        "# slurm_partition: no\ndefault-resources:\n  slurm_partition: cpu  # of light jobs\n  slurm_account: me\n"
    )
    return [path]


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("1-00:00:00", 1440), ("4:00:00", 240), ("30:00", 30), ("2-12:30:00", 3630), ("infinite", None)],
)
def test_time_limits(text, minutes):
    assert limits.parse_minutes(text) == minutes


@pytest.mark.parametrize(
    ("text", "gpus"),
    [("(null)", 0), ("gpu:4", 4), ("gpu:a100:4(S:0-1)", 4), ("gpu:a100:2,gpu:h100:6,shard:8", 8), ("nogpu:4,gpu:1", 1)],
)
def test_gpus_of_a_node(text, gpus):
    assert limits.parse_gpus(text) == gpus


def test_a_partition_offers_what_its_largest_node_has():
    partitions = limits.parse_partitions(SINFO)
    assert partitions["gpu"] == limits.Limits(gpus=8, cpus=128, mem_mb=1024000, runtime=240, nodes=2)
    assert partitions["cpu"] == limits.Limits(gpus=0, cpus=32, mem_mb=128000, runtime=1440)


def test_limits_of_several_partitions(answers, profile):
    found = limits.check_cluster({"models.a.resources": Resources(gpus=8, runtime=240)}, DEFAULTS, profile)
    assert found[limits.CPU_PARTITION] == limits.Limits(gpus=0, cpus=32, mem_mb=128000, runtime=None)


def test_further_attempts_get_more_up_to_what_there_is():
    wanted, most = Resources(mem_mb=3000, runtime=100), limits.Limits(0, 8, 8000, None)
    assert [limits.grown(wanted, "mem_mb", attempt, most) for attempt in (1, 2, 3)] == [3000, 6000, 8000]
    assert [limits.grown(wanted, "runtime", attempt, most) for attempt in (1, 3)] == [100, 300]
    assert limits.grown(wanted, "mem_mb", 3, None) == 9000


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (Resources(gpus=9), r"models.a.resources: gpus=9 \(at most 8\) in partition gpu"),
        (ModelResources(gpus=8, nodes=3), r"models.a.resources: nodes=3 \(at most 2\) in partition gpu"),
        (Resources(gpus=1, runtime=300), r"runtime=300 \(at most 240\) in partition gpu"),
        (
            Resources(cpus=64, mem_mb=200000),
            r"cpus=64 \(at most 32\), mem_mb=200000 \(at most 128000\) in partition cpu",
        ),
    ],
)
def test_too_large_requests(answers, profile, wanted, message):
    with pytest.raises(ClusterError, match=message):
        limits.check_cluster({"models.a.resources": wanted}, DEFAULTS, profile)


def test_too_large_requests_name_the_line_of_their_partition(answers, profile):
    wanted = {"models.a.resources": Resources(gpus=9), "models.b.resources": Resources()}
    with pytest.raises(ClusterError) as caught:
        limits.check_cluster(wanted, DEFAULTS, profile)
    assert str(caught.value).endswith("or name another partition:\n  `gpu_partition` of your profile")


def test_an_unknown_partition_names_the_line_to_edit(answers, profile):
    with pytest.raises(
        ClusterError, match="no partition cpus on this cluster, which has cpu, gpu, long. Edit .*line 3"
    ):
        limits.check_cluster({}, DEFAULTS | {limits.CPU_PARTITION: "cpu,cpus"}, profile)
    with pytest.raises(ClusterError, match="Edit `gpu_partition` of your profile"):
        limits.check_cluster({}, DEFAULTS | {limits.GPU_PARTITION: "a100"}, profile)


def test_accounts(answers, profile):
    mine = DEFAULTS | {limits.ACCOUNT: "Physics"}
    limits.check_cluster({}, mine, profile)
    answers("sacctmgr", "", status=1)
    limits.check_cluster({}, mine, profile)
    answers("sacctmgr", "physics\nmath\n")
    limits.check_cluster({}, mine, profile)
    with pytest.raises(
        ClusterError, match="account art is not yours on this cluster; yours are math, physics. Edit .* 4"
    ):
        limits.check_cluster({}, DEFAULTS | {limits.ACCOUNT: "art"}, profile)


def test_commands_that_are_absent_or_do_not_answer(answers, profile, tmp_path, monkeypatch):
    answers("sinfo", "slurm_load_partitions: Unable to contact slurm controller\n", status=1)
    with pytest.raises(ClusterError, match="Unable to contact slurm controller"):
        limits.check_cluster({}, DEFAULTS, profile)
    (tmp_path / "sbatch").unlink()
    with pytest.raises(ClusterError, match="no sbatch on PATH: start where jobs can be submitted"):
        limits.check_cluster({}, DEFAULTS, profile)


def test_jobs_that_another_run_left(answers):
    answers("squeue", "7|retrotune_ab|/here\n8|retrotune_ab|/home\n9|retrotuner|/here\n12|retrotune_cd|/here\n")
    assert queue.jobs_of_others("retrotune", "/here") == ["12", "7"]
    answers("squeue", "error\n", status=1)
    assert queue.jobs_of_others("retrotune", "/here") == []


def test_whether_sacct_can_be_asked(answers):
    assert not queue.accounting_answers()
    answers("sacct", "Slurm accounting storage is disabled\n", status=1)
    assert not queue.accounting_answers()
    answers("sacct")
    assert queue.accounting_answers()


def test_what_an_interrupted_run_leaves_is_canceled(answers, tmp_path):
    answers("squeue", "18\n17\n")
    (tmp_path / "scancel").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/canceled\n')
    assert queue.cancel_left("no run of Slurm") == []
    assert queue.cancel_left("SLURM run ID: retrotune_1-2\nJob 1 has been submitted\n") == ["17", "18"]
    assert (tmp_path / "canceled").read_text() == "17 18\n"


def test_jobs_that_left_no_log(tmp_path):
    (tmp_path / "18.log").write_text("")
    lines = [
        f"    log: logs/demo/a.log, {tmp_path}/{job}.log (check log file(s) for error details)" for job in (17, 18)
    ]
    assert queue.failed_without_log("\n".join(lines)) == ["17"]
    assert queue.failed_without_log("    log: logs/demo/a.log (check log file(s) for error details)") == []


def test_keys_of_an_older_profile():
    limits.check_profile(["slurm_partition", "mem_mb"])
    with pytest.raises(ClusterError, match="`partition` is called `slurm_partition` now"):
        limits.check_profile(["mem_mb", "partition"])
