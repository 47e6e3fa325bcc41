"""Files are whole or absent, and reading errors name file and line."""

import math
import os
import subprocess
import sys

import pytest

from retrotune.errors import DataError
from retrotune.runtime.files import (
    atomic_write,
    block_path,
    read_json,
    read_jsonl,
    read_parquet,
    sha256,
    sha256_text,
    write_json,
    write_jsonl,
    write_parquet,
    write_text,
)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, {"a": 1})

    def fail_halfway():
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert read_json(path) == {"a": 1}
    assert os.listdir(tmp_path) == ["value.json"]


def test_a_full_disk_leaves_nothing_under_the_name(tmp_path):
    """A file size limit makes the kernel refuse the write as a full disk does."""
    path = tmp_path / "big.json"
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "from retrotune.runtime.files import write_text; write_text(sys.argv[1], 'x' * 100_000)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert done.returncode != 0
    assert "File too large" in done.stderr
    assert os.listdir(tmp_path) == []


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"score": float("nan")})
    assert os.listdir(tmp_path) == []


def test_jsonl_round_trip_and_line_numbers(tmp_path):
    path = tmp_path / "lines.jsonl"
    write_jsonl(path, [{"a": "é"}, {"a": 2}])
    assert list(read_jsonl(path)) == [(1, {"a": "é"}), (2, {"a": 2})]
    path.write_text('{"a": 1}\n\n{"a": ')
    with pytest.raises(DataError, match=r"lines.jsonl:3: not valid JSON"):
        list(read_jsonl(path))
    path.write_bytes(b'{"a": 1}\n{"a": "\xff"}\n')
    with pytest.raises(DataError, match=r"lines.jsonl:2: not UTF-8"):
        list(read_jsonl(path))


BEYOND = ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"]


@pytest.mark.parametrize("number", BEYOND)
def test_numbers_that_are_not_finite_are_refused_with_their_line(tmp_path, number):
    """Python's own reader takes them, and a mean over them is silently no number."""
    said = f"{number} and \\\\"
    path = tmp_path / "lines.jsonl"
    path.write_text(f'{{"a": 1.5, "b": 1e10}}\n\n{{"a": "{said}", "b": [{{"c": {number}}}]}}\n')
    lines = read_jsonl(path)
    assert next(lines) == (1, {"a": 1.5, "b": 1e10})
    with pytest.raises(DataError, match=f"lines.jsonl:3: the number {number} is not finite, and no JSON"):
        next(lines)
    whole = tmp_path / "x.json"
    whole.write_text(f'{{"a": "{said}",\n "b": 12345,\n\n "c": [0.5, {number}]}}')
    with pytest.raises(DataError, match=f"x.json:4: the number {number} is not finite"):
        read_json(whole)
    assert not math.isfinite(read_json(whole, allow_nan=True)["c"][1]), "configurations of others hold such numbers"


@pytest.mark.parametrize("text", ["9" * 5000, "[" * 200_000])
def test_json_that_python_cannot_hold_is_named(tmp_path, text):
    path = tmp_path / "lines.jsonl"
    path.write_text(f"{{}}\n{text}\n")
    with pytest.raises(DataError, match=r"lines.jsonl:2: not (readable|valid) JSON"):
        list(read_jsonl(path))


@pytest.mark.parametrize(
    ("content", "message"), [(b'{"a":\n', "x.json:2: not valid"), (b"\xff", "not UTF-8 at byte 0")]
)
def test_broken_json(tmp_path, content, message):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_json(path)
    with pytest.raises(DataError, match="no such file"):
        read_json(tmp_path / "none.json")


def test_parquet_round_trip_and_damage(tmp_path):
    import pandas as pd

    path = tmp_path / "t.parquet"
    write_parquet(path, pd.DataFrame({"a": [1, 2], "b": [["x"], []]}))
    assert read_parquet(path)["a"].tolist() == [1, 2]
    assert read_parquet(path, ["b"]).columns.tolist() == ["b"]
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match="damaged.*delete it and run again"):
        read_parquet(path)


def test_checksums_and_blocks(tmp_path):
    write_text(tmp_path / "a", "abc")
    assert (
        sha256(tmp_path / "a")
        == sha256_text("abc")
        == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
    assert block_path(tmp_path, 12, ".npy").name == "00012.npy"
