"""`snakemake --profile slurm` as it is typed in the repository's root, without a cluster."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml

pytest.importorskip("snakemake_executor_plugin_slurm")
MERGED = """
import json, sys
from snakemake.cli import parse_args
arguments = vars(parse_args(sys.argv[1:])[1])
print(json.dumps({key: arguments[key] for key in json.loads(sys.stdin.read())}, default=str))
"""
EVERYWHERE = {"keep_going": True, "rerun_incomplete": True, "printshellcmds": False, "nolock": True}


def merged(repository, *arguments, keys):
    """Values that Snakemake makes of the typed command and all profiles that it finds."""
    done = subprocess.run(
        [sys.executable, "-c", MERGED, *arguments],
        input=json.dumps([*keys]),
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def snakemake(repository, *arguments, **variables):
    return subprocess.run(
        [sys.executable, "-m", "snakemake", *arguments],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | variables,
    )


def test_values_of_the_typed_command(repository):
    expected = EVERYWHERE | {
        "executor": "slurm",
        "retries": 2,
        "jobs": 200,
        "latency_wait": 60,
        "scheduler": "greedy",
        "slurm_requeue": True,
        "slurm_status_command": "sacct",
        "slurm_jobname_prefix": "retrotune",
        "slurm_logdir": "logs/slurm",
        "show_failed_logs": True,
    }
    assert merged(repository, "--profile", "slurm", keys=expected) == expected


def test_what_is_typed_wins(repository):
    typed = ["--profile", "slurm", "--retries", "0", "--jobs", "3", "--slurm-status-command", "squeue"]
    values = merged(repository, *typed, keys=["retries", "jobs", "slurm_status_command", "executor"])
    assert values == {"retries": 0, "jobs": 3, "slurm_status_command": "squeue", "executor": "slurm"}


def test_the_head_profile_adds_to_the_cluster_profile(repository):
    both = ["--profile", "slurm", "--profile", "profiles/slurm-head"]
    values = merged(repository, *both, keys=["executor", "retries", "slurm_status_attempts", "local_cores"])
    assert values == {"executor": "slurm", "retries": 2, "slurm_status_attempts": 20, "local_cores": 1}


def test_the_default_profile_is_right_everywhere(repository):
    """It wins over `--profile` key by key, so it must hold nothing that differs between a laptop and a cluster."""
    keys = yaml.safe_load((repository / "profiles/default/config.yaml").read_text())
    assert set(keys) == {"rerun-triggers", *(key.replace("_", "-") for key in EVERYWHERE)}
    slurm = yaml.safe_load((repository / "profiles/slurm/config.yaml").read_text())
    assert not set(keys) & set(slurm)


def test_what_a_user_edits_is_on_top(repository):
    lines = (repository / "profiles/slurm/config.yaml").read_text().splitlines()
    top = lines[: next(index for index, line in enumerate(lines) if line.startswith("executor:"))]
    edited = [line for line in top if re.match(r"  (# )?\w+: .*# ", line)]
    assert {"slurm_partition", "gpu_partition", "slurm_account"} <= {line.strip("# ").split(":")[0] for line in edited}
    assert len(edited) <= 10


DEMO = ("--profile", "slurm", "--configfile", "config/config.yaml", "--directory")


def test_requests_by_rule_and_model(repository, tmp_path):
    """A plan for the cluster: GPUs, cores, memory, time and partition of each kind of job."""
    models = {"gpt-tiny": {"resources": {"gpus": 2, "cpus": 4, "mem_mb": 9000, "runtime": 90}}}
    rules = {"embed_passages": {"gpus": 1, "mem_mb": 5000}}
    values = [f"{key}={json.dumps(value)}" for key, value in (("models", models), ("rule_resources", rules))]
    profile = ["slurm_partition=cpu", "gpu_partition=gpu", "gpu_type=a100", "mem_mb=3000", "runtime=50"]
    plan = [str(tmp_path), "--dry-run", "--cores", "64", "--default-resources", *profile, "--config", *values]
    done = snakemake(repository, *DEMO, *plan)
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = re.split(r"(?m)^ *rule ", done.stdout + done.stderr)

    def requests(rule, text=""):
        (line,) = {
            re.search(r"(?m)^ +resources: .*$", job)[0] + "".join(re.findall(r"(?m)^ +threads: .*$", job))
            for job in jobs
            if job.startswith(f"{rule}:") and text in job
        }
        return dict(
            re.findall(r"(gpu|gpu_model|constraint|nodes|mem_mb|runtime|slurm_partition|threads)[=:] ?([^,\s]+)", line)
        )

    gpu = {"gpu_model": "a100", "nodes": "1", "slurm_partition": "gpu"}
    large = gpu | {"gpu": "2", "mem_mb": "9000", "runtime": "90", "threads": "4"}
    for rule in ("pretrain_model", "finetune_cell", "predict_cell"):
        assert requests(rule, "model=gpt-tiny") == large, rule
    small = {"nodes": "1", "mem_mb": "4000", "runtime": "60", "slurm_partition": "cpu"}
    assert requests("finetune_cell", "model=retro-tiny") == small
    assert requests("embed_passages") == gpu | {"gpu": "1", "mem_mb": "5000", "runtime": "60"}
    assert requests("cache_neighbors") == {**small, "mem_mb": "8000", "runtime": "120"}
    defaults = {"mem_mb": "3000", "runtime": "50", "slurm_partition": "cpu"}
    assert requests("train_tokenizer") == defaults
    assert requests("score_cell", "model=gpt-tiny") == defaults, "it runs where Snakemake runs, whatever its model asks"


def test_requests_of_trainings_on_several_nodes(repository, tmp_path):
    """GPUs are asked for per node, in one task per node; prediction takes one node."""
    resources = {"gpus": 2, "nodes": 3, "cpus": 4, "sharded": True}
    profile = ["slurm_partition=cpu", "gpu_partition=gpu", "gpu_type=a100", "mem_mb=3000", "runtime=50"]
    plan = [str(tmp_path), "--dry-run", "--cores", "64", "--default-resources", *profile, "--config"]
    done = snakemake(repository, *DEMO, *plan, f"models={json.dumps({'gpt-tiny': {'resources': resources}})}")
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = [job for job in re.split(r"(?m)^ *rule ", done.stdout + done.stderr) if "model=gpt-tiny" in job]
    keys = r"\b(gpu|gpu_model|nodes|processes|one_per_device|sharded|mpi|tasks|tasks_per_gpu|gres)=([^,\s]+)"

    def requests(rule):
        (line,) = {re.search(r"(?m)^ +resources: .*$", job)[0] for job in jobs if job.startswith(f"{rule}:")}
        return dict(re.findall(keys, line))

    spread = {"nodes": "3", "processes": "2", "one_per_device": "1", "sharded": "1"}
    spread |= {"mpi": "srun", "tasks": "3", "tasks_per_gpu": "0", "gres": "gpu:a100:2"}
    assert requests("finetune_cell") == requests("pretrain_model") == spread
    assert requests("predict_cell") == {"gpu": "2", "gpu_model": "a100", "nodes": "1"}


def test_where_slurm_is_absent(repository, tmp_path):
    for command in ("bash", "which"):
        (tmp_path / command).symlink_to(shutil.which(command))
    done = snakemake(repository, *DEMO, str(tmp_path), PATH=str(tmp_path))
    assert done.returncode == 1
    assert "no sbatch, squeue, sinfo, scancel on PATH" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_profile_for_an_older_executor(repository, tmp_path):
    old = ["--default-resources", "partition=cpu", "slurm_account=me"]
    done = snakemake(repository, *DEMO, str(tmp_path), "--dry-run", *old)
    assert done.returncode == 1
    assert "`partition` is called `slurm_partition` now" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('cluster: "sbatch --mem={resources.mem_mb}"', "No rule to produce --cluster="),
        ("cluster-config: cluster.yaml", "unrecognized arguments: --cluster-"),
        ("slurm: true", "ambiguous option: --slurm"),
    ],
)
def test_a_profile_for_snakemake_7(repository, tmp_path, line, message):
    """Refused by Snakemake, before the study is read; what to do is under the message in the documentation."""
    (tmp_path / "config.yaml").write_text(f"{line}\njobs: 10\n")
    old = ["--profile", str(tmp_path), "--configfile", "config/config.yaml", "--directory", str(tmp_path), "--dry-run"]
    done = snakemake(repository, *old)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
    (row,) = (row for row in (repository / "docs/slurm.md").read_text().splitlines() if message in row)
    assert "use `profiles/slurm`" in row
