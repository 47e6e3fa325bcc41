"""YAML and JSON of a study: what is said twice, or reads otherwise than it looks, is refused with its line."""

import json
import subprocess
import sys

import pytest

from retrotune.cli import main
from retrotune.errors import ConfigError
from retrotune.study.config import check_files, parse_yaml, read_yaml

TWICE = [
    ("a: 1\nb: 2\na: 3", "f:3: a: duplicate key, given first in line 1"),
    ("m:\n  x: {k: 1}\n  y: 2\n  x: {k: 3}", "f:4: m.x: duplicate key, given first in line 2"),
    ("m: {x: 1, x: 2}", "f:1: m.x: duplicate key, given first in line 1"),
    ("l:\n- x: 1\n- {k: 1}\n- k: 1\n  k: 1", "f:5: l.2.k: duplicate key, given first in line 4"),
    ("'a': 1\n\"a\": 2", "f:2: a: duplicate key"),
    ("b: &b {x: 1}\nc:\n  <<: *b\n  y: 1\n  y: 2", "f:5: c.y: duplicate key, given first in line 4"),
    ("b: &b\n  x: 1\n  x: 2\nc: *b", "f:3: b.x: duplicate key, given first in line 2"),
    ('{"a": 1,\n\t"b": [{"c": 1,\n\t"c": 2}]}', "f:3: b.0.c: duplicate key, given first in line 2"),
]
MISREAD = [
    *((f"m:\n  {name}: 1", f"f:2: m.{name}: YAML reads this name as ") for name in ("no", "007", "1.5e+3", "0x1F")),
    ("off: 1\ny: 1\nnull: 1", "f:3: null: YAML reads this name as null"),
    ("n: 010", "f:1: n: YAML reads 010 to another base than ten"),
    ("n: [3, 1:30]", "f:1: n.1: YAML reads 1:30"),
]  # fmt: skip
BROKEN = [
    "a: [1",
    "a\0: 1",
    "d: 2024-99-99",
    "n: !!int x",
    "[a]: 1",
    "a: 1\n---\nb: 2",
    "!!python/name:os.system x",
    "[" * 9999,
]


@pytest.mark.parametrize(("text", "message"), TWICE + MISREAD)
def test_what_is_refused_has_its_line(text, message):
    with pytest.raises(ConfigError) as error:
        parse_yaml(text, "f")
    assert str(error.value).startswith("the configuration has errors:\n")
    assert message in str(error.value)


def test_all_faults_are_told_at_once_in_their_order():
    with pytest.raises(ConfigError) as error:
        parse_yaml("z: {k: 1, k: 2}\nno: 1\nz: 3\nn: 010", "f")
    assert [line.split(": ")[0].strip() for line in str(error.value).splitlines()[1:]] == ["f:1", "f:2", "f:3", "f:4"]


@pytest.mark.parametrize("text", BROKEN)
def test_what_is_no_yaml_is_no_traceback(text):
    with pytest.raises(ConfigError, match="^f: not valid YAML: "):
        parse_yaml(text, "f")


def test_what_yaml_allows_stays_allowed():
    merged = parse_yaml("b: &b {x: 1, y: 2}\nc:\n  <<: *b\n  x: 3\nd: {<<: [*b, {z: 4}], y: 5}\ne: *b", "f")
    assert merged["c"] == {"x": 3, "y": 2}
    assert merged["d"] == {"x": 1, "y": 5, "z": 4}
    assert merged["e"] == merged["b"]
    assert parse_yaml("n: {1e3: 1}", "f") == {"n": {"1e3": 1}}
    assert parse_yaml("a: [0, -3, 0.5, 1e-4, 0x10]\nb: '010'", "f") == {"a": [0, -3, 0.5, "1e-4", 16], "b": "010"}
    value = {"a": 1e3, "b/c": "\N{GRINNING FACE}", "d": [None, True]}
    for indent in (None, 2, "\t"):
        assert parse_yaml(json.dumps(value, indent=indent), "f") == value
    assert parse_yaml("", "f") is None


def test_files_that_cannot_be_read(tmp_path):
    file = tmp_path / "s.yaml"
    file.write_bytes("study: s # Größe\nname: café\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"s.yaml:1: not UTF-8 \(byte 0xf6\); save the file as UTF-8"):
        read_yaml(file)
    file.write_bytes("study: s\n".encode("utf-16"))
    with pytest.raises(ConfigError, match="s.yaml:1: not UTF-8"):
        read_yaml(file)
    file.write_bytes("study: s\r\n".encode("utf-8-sig"))
    assert read_yaml(file) == {"study": "s"}
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path)


def test_profiles_of_the_command_line_are_read_too(tmp_path):
    (tmp_path / "config.yaml").write_text("cores: 1\njobs: 2\ncores: 3\n")
    check_files([], ["snakemake", "--cores", "1"])
    for option in ("--profile", "--workflow-profile"):
        with pytest.raises(ConfigError, match="config.yaml:3: cores: duplicate key"):
            check_files([], ["snakemake", option, str(tmp_path)])


def test_commands_and_snakemake_refuse_alike(tmp_path, repository, capsys):
    """Of several files the one that says something twice is named; each alone may say what another says."""
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text("study: s\nmethods:\n  lora: {kind: lora, rank: 2}\n  lora: {kind: lora, rank: 64}\n")
    two.write_text("study: t\n")
    message = f"{one}:4: methods.lora: duplicate key, given first in line 3"
    assert main(["status", "--configfile", str(two), str(one)]) == 1
    assert message in capsys.readouterr().err
    assert main(["status", "--config", "methods={a: 1, a: 2}"]) == 1
    assert "--config methods:1: a: duplicate key" in capsys.readouterr().err
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(repository / "Snakefile"), "--dry-run"]
    done = subprocess.run(
        [*command, "--configfile", str(two), str(one), "--directory", str(tmp_path)],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
