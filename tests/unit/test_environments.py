"""The conda environments that rules name hold the pins of the constraint file."""

import re
import tomllib
from collections import Counter

import yaml


def normalized(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def constraints(repository):
    lines = (repository / "envs" / "constraints-cpu.txt").read_text().split()
    return {normalized(name): version for name, version in (line.split("==") for line in lines)}


def test_environment_pins_are_the_constraints(repository):
    pins = constraints(repository)
    assert pins["torch"] == "2.13.0"
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    needed = {normalized(re.split("[<>=]", text)[0]) for text in project["dependencies"]}
    for name, faiss in (("cpu.yaml", "faiss-cpu"), ("gpu.yaml", "faiss-gpu")):
        environment = yaml.safe_load((repository / "envs" / name).read_text())
        pip = next(part["pip"] for part in environment["dependencies"] if isinstance(part, dict))
        found = {normalized(key): value for key, value in (line.split("==") for line in pip if line[0] != "-")}
        assert found.pop(faiss) == pins["faiss-cpu"], "both builds of FAISS have one version"
        assert found == {key: pins[key] for key in found}
        assert needed - {"faiss-cpu"} <= set(found), name


def test_every_rule_names_an_environment(repository):
    for path in (repository / "workflow" / "rules").glob("*.smk"):
        rules = re.split(r"(?m)^rule ", path.read_text())[1:]
        for rule in rules:
            assert "conda:" in rule, f"{path.name}: {rule.split(':')[0]}"
            assert "uses=uses(" in rule, f"{path.name}: {rule.split(':')[0]} does not say what its stage uses"


def test_test_files_have_different_names(repository):
    names = Counter(path.name for path in (repository / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == [], "pytest imports test files by their names"
