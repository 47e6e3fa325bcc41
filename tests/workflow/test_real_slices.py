"""Official files of all six datasets through the whole chain, a few records each."""

import json
from pathlib import Path

import pytest

DATASETS = ("nq", "triviaqa", "narrativeqa", "qasper", "quality", "qmsum")


@pytest.fixture
def real(workflow, repository, tmp_path):
    files = (repository / "config" / "real-slices.yaml", Path(__file__).parent / "real-smallest.yaml")
    return workflow(tmp_path, *files)


def test_without_files_the_missing_ones_are_named(real):
    done = real.run("--dry-run", "--config", "data_root=nowhere")
    assert done.returncode != 0
    assert "nowhere/wikipedia" in done.stdout + done.stderr


@pytest.mark.slow
def test_a_few_records_of_every_dataset(real, shared):
    done = real.run("--config", f"data_root={shared / 'data'}")
    assert done.returncode == 0, done.stdout + done.stderr
    cells = real.folder / "results/real-smallest/cells"
    for model, method, datasets in [
        ("gpt-tiny", "zeroshot", DATASETS),
        ("retro-tiny", "zeroshot", DATASETS),
        ("retro-tiny", "ptuning", ("qmsum",)),
        ("gpt-tiny", "full", ("quality",)),
    ]:
        for dataset in datasets:
            cell = cells / model / method / dataset / "minilm5" / "seed0"
            assert json.loads((cell / "metrics.json").read_text())["status"] == "done"
            records = [json.loads(line) for line in (cell / "predictions.jsonl").read_text().splitlines()]
            assert len(records) == 2
            for record in records:
                assert len(record["context_ids"]) == (5 if model == "gpt-tiny" else 1), record
                assert len(record["neighbor_ids"]) == (0 if model == "gpt-tiny" else 4), record
                assert record["answers"]
