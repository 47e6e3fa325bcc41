"""What a plan holds once cells are finished, what it costs to parse, and what `retrotune explain` says of it."""

import os
import subprocess
import sys

import pytest
import yaml

from retrotune.study.paths import REPORT_STAGES

CELL_JOBS = {"finetune_cell": 1, "predict_cell": 1, "score_cell": 1}
REPORT = {stage: 1 for stage in REPORT_STAGES if stage != "report_retrieval"}
GRID = {"models": ["gpt-tiny", "retro-tiny"], "methods": ["zeroshot", "lora"], "datasets": ["nq"]}
NEW = "results/planned/cells/retro-tiny/lora/nq/minilm2/seed7/metrics.json"


@pytest.fixture(scope="module")
def finished(repository, tmp_path_factory):
    """A study of four cells whose files are all there, empty, and known to Snakemake as those of a finished run."""
    from study_runs import Workflow

    folder = tmp_path_factory.mktemp("planned")
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump({"study": "planned", "grid": [{**GRID, "retrievals": ["minilm2"]}]}))
    study = Workflow(repository, folder, repository / "config" / "config.yaml", file)
    for line in study.run("--summary").stdout.splitlines()[1:]:
        path = folder / line.split("\t")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(exist_ok=True) if path.name == "adapter" else path.touch()
    done = study.run("--touch")
    assert done.returncode == 0, done.stdout + done.stderr
    assert study.plan() == {}
    return study


def one_more(finished):
    """The same study with one cell more."""
    file = finished.folder / "more.yaml"
    cell = {"models": ["retro-tiny"], "methods": ["lora"], "datasets": ["nq"], "retrievals": ["minilm2"], "seeds": [7]}
    file.write_text(yaml.safe_dump({"grid": [{**GRID, "retrievals": ["minilm2"]}, cell]}))
    return type(finished)(finished.repository, finished.folder, *finished.configfiles, file)


def test_one_cell_more_plans_its_jobs_only(finished):
    assert one_more(finished).plan() == {**CELL_JOBS, **REPORT}


def test_explain_gives_snakemakes_reasons(finished):
    study = one_more(finished)
    command = [sys.executable, "-m", "retrotune.cli", "explain", NEW, "--configfile", *map(str, study.configfiles)]
    for name in ("Snakefile", "workflow", "src", "envs"):
        (study.folder / name).symlink_to(study.repository / name)
    done = subprocess.run(command, cwd=study.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "retro-tiny/lora/nq/minilm2/seed7: retro, size tiny, missing (finetune_cell)" in done.stdout
    lines = done.stdout.partition("what would run, and why:\n")[2].splitlines()
    assert [line.split(":")[0].strip() for line in lines[:3]] == list(CELL_JOBS), done.stdout
    assert "Missing output files" in lines[0]


def test_parsing_imports_nothing_heavy(repository):
    """What `common.smk` imports, in a process of its own."""
    common = (repository / "workflow" / "rules" / "common.smk").read_text()
    imports = "\n".join(line for line in common.splitlines() if line.startswith("from retrotune"))
    heavy = "{'torch', 'transformers', 'pandas', 'pyarrow', 'numpy', 'scipy', 'faiss', 'yaml'}"
    script = f"{imports}\nimport sys\nprint(sorted({heavy} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(repository / "src")}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"
