"""Official files of all six datasets through the whole chain, a few records each, wherever they come from."""

import gzip
import json
from pathlib import Path

import pytest

from retrotune.preparing.world import write_world
from retrotune.study.config import World
from retrotune.study.stages import WriteWorldParams

DATASETS = ("nq", "triviaqa", "narrativeqa", "qasper", "quality", "qmsum")


@pytest.fixture
def real(workflow, repository, tmp_path):
    files = (repository / "config" / "real-slices.yaml", Path(__file__).parent / "real-smallest.yaml")
    return workflow(tmp_path / "study", *files)


@pytest.fixture
def other_files(tmp_path):
    """Raw files in official layouts as another person may have them: other versions, folders and compression."""
    root = tmp_path / "elsewhere"
    write_world(WriteWorldParams(world=World(seed=5, pretraining_pages=50, train_documents=8, test_documents=4)), root)
    for file in (root / "qasper").glob("qasper-*-v0.3.json"):
        file.rename(file.with_name(file.name.replace("v0.3", "v0.2")))
    for file in (root / "quality").iterdir():
        file.rename(file.with_name(file.name.replace("v1.0.1", "v1.1")))
    (root / "qmsum" / "data").mkdir()
    (root / "qmsum" / "ALL").rename(root / "qmsum" / "data" / "ALL")
    packed = root / "wikipedia" / "psgs_w100.tsv.gz"
    packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    return root


def records_of(real, model, method, dataset):
    cell = real.folder / "results/real-smallest/cells" / model / method / dataset / "minilm5" / "seed0"
    assert json.loads((cell / "metrics.json").read_text())["status"] == "done"
    records = [json.loads(line) for line in (cell / "predictions.jsonl").read_text().splitlines()]
    scores = [json.loads(line) for line in (cell / "scores.jsonl").read_text().splitlines()]
    assert [record["question_id"] for record in scores] == [record["question_id"] for record in records]
    assert len(records) == 2
    return records


def test_without_files_the_missing_ones_are_named(real):
    done = real.run("--dry-run", "--config", "data_root=nowhere")
    assert done.returncode != 0
    assert "nowhere/wikipedia" in done.stdout + done.stderr


@pytest.mark.slow
def test_files_that_nobody_has_seen(real, other_files):
    # of each kind of retrieval and of score a dataset to its end; of the others their raw files
    to_the_end = ("nq", "quality", "qmsum")
    select = f"select={{model: retro-tiny, method: zeroshot, dataset: [{', '.join(to_the_end)}]}}"
    data = ("--config", f"data_root={other_files}")
    prepared = [
        f"resources/real-smallest/datasets/{dataset}/{split}.parquet"
        for dataset in sorted(set(DATASETS) - set(to_the_end))
        for split in ("train", "test")
    ]
    for arguments in ([*data, select], [*data, "--", *prepared]):
        done = real.run(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
    for dataset in to_the_end:
        records_of(real, "retro-tiny", "zeroshot", dataset)
    (changed,) = (other_files / "quality").glob("*.dev")
    changed.write_bytes(b"".join(changed.read_bytes().splitlines(keepends=True)[:-1]))
    jobs = real.plan("--config", f"data_root={other_files}", select)
    # the only test file is also held against the training questions
    again = {rule: count for rule, count in jobs.items() if rule.startswith("prepare_")}
    assert again == {"prepare_test": 1}, "a raw file that changed is read again, and no other"


@pytest.mark.slow
def test_a_few_real_records_of_every_dataset(real, shared):
    done = real.run("--config", f"data_root={shared / 'data'}")
    assert done.returncode == 0, done.stdout + done.stderr
    for dataset in DATASETS:
        assert all(len(record["context_ids"]) == 5 for record in records_of(real, "gpt-tiny", "zeroshot", dataset))
        for record in records_of(real, "retro-tiny", "zeroshot", dataset):
            assert (len(record["context_ids"]), len(record["neighbor_ids"])) == (1, 4)
    records_of(real, "retro-tiny", "ptuning", "qmsum")
    records_of(real, "gpt-tiny", "full", "quality")
