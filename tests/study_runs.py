"""Studies that tests run as a user does, each in a folder of its own, and what of their results must not differ."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

MEASURED = {"seconds", "peak_memory_bytes", "energy_joules", "git"}
"""Keys of JSON files whose values differ from run to run, or while somebody works on the code."""
OF_MANIFESTS = {("inputs", "model"), ("source", "manifest_sha256")}
"""Checksums of a base model's manifest, which says how long its training took."""
TABLES = ("comparison.csv", "comparison.md", "metrics.csv", "results.json")
MODEL = ("model.safetensors", "manifest.json", "train_log.jsonl")


def letters_tokenizer() -> Any:
    """A tokenizer whose 257 tokens are the end of a text and single bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = Tokenizer(models.BPE({"<eos>": 0, **{letter: n for n, letter in enumerate(alphabet, 1)}}, []))
    letters.pre_tokenizer, letters.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=letters, eos_token="<eos>")


class Workflow:
    """Snakemake over some configuration files, with its working directory elsewhere."""

    def __init__(self, repository: Path, folder: Path, *configfiles: Path) -> None:
        self.repository, self.folder, self.configfiles = repository, folder, configfiles
        folder.mkdir(parents=True, exist_ok=True)

    def command(self, *arguments: str) -> list[str]:
        snakefile = ["--snakefile", str(self.repository / "Snakefile"), "--directory", str(self.folder)]
        profile = ["--workflow-profile", str(self.repository / "profiles" / "default")]
        return [sys.executable, "-m", "snakemake", *self.files, *snakefile, *profile, "--cores", "2", *arguments]

    @property
    def files(self) -> list[str]:
        """The configuration files, as arguments."""
        return ["--configfile", *map(str, self.configfiles)] if self.configfiles else []

    def run(
        self, *arguments: str, timeout: float | None = 900, typed: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run it; `typed` waits on standard input."""
        return subprocess.run(
            self.command(*arguments), cwd=self.folder, capture_output=True, text=True, timeout=timeout, check=False,
            input=typed,
        )  # fmt: skip

    def plan(self, *arguments: str) -> dict[str, int]:
        """Jobs per rule of a dry run, without the target rule."""
        done = self.run(*arguments, "--dry-run", "--quiet", "rules")
        assert done.returncode == 0, done.stdout + done.stderr
        jobs = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, flags=re.MULTILINE))
        return {rule: int(count) for rule, count in jobs.items() if rule not in ("total", "all")}

    def retrotune(self, command: str, *arguments: str) -> str:
        """What a `retrotune` command about this study prints."""
        done = subprocess.run(
            [sys.executable, "-m", "retrotune.cli", command, *arguments, *self.files],
            cwd=self.folder, text=True, capture_output=True,
            env={**os.environ, "PYTHONPATH": str(self.repository / "src")},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def results(self) -> dict[str, Any]:
        """Cells, score tables and base models by path, whatever was measured left out: a value for JSON, else a
        checksum."""
        cells = [path for path in self.folder.glob("results/*/cells/**/*") if not path.name.startswith(".")]
        tables = [path for name in TABLES for path in self.folder.glob(f"results/*/tables/{name}")]
        models = [path for name in MODEL for path in self.folder.glob(f"resources/*/models/*/{name}")]
        files = sorted(path for path in (*cells, *tables, *models) if path.is_file())
        return {str(path.relative_to(self.folder)): _value(path) for path in files}


def differing(results: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Paths whose values are not the same, or that one of both lacks."""
    return sorted(path for path in {*results, *expected} if results.get(path) != expected.get(path))


def _value(path: Path) -> Any:
    if path.suffix == ".json":
        return _without_measured(json.loads(path.read_text()))
    if path.suffix == ".jsonl":
        return [_without_measured(json.loads(line)) for line in path.read_text().splitlines()]
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _without_measured(value: Any, inside: str = "") -> Any:
    if isinstance(value, dict):
        kept = (key for key in value if key not in MEASURED and (inside, key) not in OF_MANIFESTS)
        return {key: _without_measured(value[key], key) for key in kept}
    return [_without_measured(part) for part in value] if isinstance(value, list) else value
