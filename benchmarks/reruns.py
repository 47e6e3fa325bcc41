"""What a change runs again, of a finished study: jobs that `snakemake --dry-run` plans, the target rule counted.

    python benchmarks/reruns.py                      # of the demo, finished in this folder by `make demo`
    python benchmarks/reruns.py --directory FOLDER   # finished elsewhere

Two changes are values of the study, two are made to a copy of the code: a new key at its default, and a raised number
of the scoring stage, as for one more metric.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PROMPTS = ", ".join(f'"{name}": {{"prompt": "base"}}' for name in ("nq", "narrativeqa", "qmsum"))


def planned(folder: Path, code: Path, *config: str) -> dict[str, int]:
    """Jobs by rule."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(code / "Snakefile"), "--directory", str(folder)]
    command += ["--configfile", str(REPOSITORY / "config" / "config.yaml"), "--workflow-profile"]
    command += [str(REPOSITORY / "profiles" / "default"), "--dry-run", "--quiet", "rules", "--nolock"]
    command += ["--config", *config] if config else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", said, flags=re.MULTILINE)}


def changed(folder: Path, file: str, change: Callable[[str], str]) -> Path:
    """A copy of the code with a changed file."""
    for name in ("src", "workflow", "envs", "profiles"):
        shutil.copytree(REPOSITORY / name, folder / name, symlinks=True, dirs_exist_ok=True)
    shutil.copy(REPOSITORY / "Snakefile", folder)
    before = (folder / file).read_text()
    (folder / file).write_text(change(before))
    assert (folder / file).read_text() != before, f"{file} has no place for this change any more"
    return folder


def new_key(text: str) -> str:
    """One more key of a dataset."""
    return re.sub(
        r"(    max_new_tokens: PositiveInt)", r'    newest: bool = Field(False, description="x")\n\1', text, count=1
    )


def raised(text: str) -> str:
    """The scoring stage's next number."""
    return re.sub(r'(stage = "score_cell"\n    version = )(\d+)', lambda found: f"{found[1]}{int(found[2]) + 1}", text)


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--directory", default=".", help="where the study is finished")
study = Path(parser.parse_args().directory).resolve()
with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
    found = {
        "nothing": planned(study, REPOSITORY),
        "max_test": planned(study, REPOSITORY, 'datasets={"nq": {"max_test": 140}}'),
        "prompt_written_out": planned(study, REPOSITORY, f"datasets={{{PROMPTS}}}"),
        "new_key": planned(study, changed(Path(first), "src/retrotune/study/config/data.py", new_key)),
        "scoring_raised": planned(study, changed(Path(second), "src/retrotune/study/stages/cells.py", raised)),
    }
for name, jobs in found.items():
    print(f"{name}: {', '.join(f'{rule} {count}' for rule, count in jobs.items() if rule != 'total') or 'nothing'}")
for name, jobs in found.items():
    print(f"VALUE {name}_jobs {jobs.get('total', 0)}")
