"""Planning needs neither data nor models, and `select` narrows any study."""

import pytest

CELL_RULES = ("finetune_cell", "predict_cell", "score_cell")


def test_the_paper_is_planned_without_data(paper):
    done = paper.run("--dry-run", "--quiet", "rules")
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    jobs = paper.plan()
    assert [jobs[rule] for rule in CELL_RULES] == [240 + 72, 300 + 96, 300 + 96], (
        "the grid, and Instruct-RETRO beside it"
    )
    assert jobs["convert_model"] == 10 + 4
    missing = "checkpoints/gpt3-8b-pretraining-retro-fitting is not there yet"
    assert output.count(missing) == 1, "each missing checkpoint is named once"
    assert output.count("is not there yet: put the checkpoint to convert there") == 10 + 2
    assert "models.retro-m-instruct, models.retro-m-instruct-encoder: checkpoints/retro-8b-instruct-4k is not" in output


@pytest.mark.parametrize(
    ("select", "counts"),
    [
        ("{method: zeroshot, dataset: nq}", [0, 10 + 4, 10 + 4]),
        ("{model: retro-m, method: lora, dataset: qasper}", [1, 1, 1]),
        ("{family: retro, size: m, method: lora, dataset: qasper}", [3, 3, 3]),
        ("{family: gpt, size: s, method: [ptuning, adapter]}", [12, 12, 12]),
    ],
)
def test_select(paper, select, counts):
    jobs = paper.plan("--config", f"select={select}")
    assert [jobs.get(rule, 0) for rule in CELL_RULES] == counts


def test_one_cell_is_a_target(paper):
    jobs = paper.plan("results/paper/cells/retro-m/lora/qasper/dragon5/seed1234/metrics.json")
    assert [jobs[rule] for rule in CELL_RULES] == [1, 1, 1]
    assert jobs["convert_model"] == 1


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("metods={}", "unknown key 'metods'; did you mean 'methods'?"),
        ("select={method: lorra}", "select.method: 'lorra' is not in the grid; did you mean 'lora'?"),
        ("max_length=-1", "max_length: Input should be greater than or equal to 1 (found -1)"),
    ],
)
def test_a_wrong_configuration_is_explained_before_anything_runs(paper, setting, message):
    done = paper.run("--dry-run", "--config", setting)
    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert message in output
    assert "Traceback" not in output


def test_missing_raw_files_are_named(paper):
    done = paper.run("--dry-run", "--config", "data_root=nowhere")
    assert done.returncode != 0
    assert "nowhere/nq" in done.stdout + done.stderr
