"""The `retrotune` command."""

import re
from pathlib import Path

import pytest
import yaml
from test_config import SMALL

from retrotune.cli import main, merged_config
from retrotune.data.datasets import get_spec
from retrotune.errors import ConfigError
from retrotune.report.collect import collect_metrics, load_results
from retrotune.report.tables import make_tables
from retrotune.runtime.files import write_json
from retrotune.study.cells import expand_grid
from retrotune.study.config import load_config
from retrotune.study.paths import Paths
from retrotune.study.resolve import resolve

CONFIG = load_config(SMALL)
PATHS = Paths.of(CONFIG)
FOLDER = "results/small"
FIGURES = ["scaling.pdf", "scaling.png", "scaling.svg"]


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(SMALL))
    return tmp_path


def finish(cell, score=40.0):
    """A cell's result, as far as tables need it."""
    metric = get_spec(CONFIG.datasets[cell.dataset].reader).metric
    entry = {"value": score, "ci_low": None, "ci_high": None, "n": 9, "higher_is_better": True, "primary": True}
    result = {"cell": vars(cell), "status": "done", "metrics": {metric: entry}, "inputs": {}}
    write_json(PATHS.cell(cell, "metrics.json"), result)


def workflow_report(config=CONFIG):
    """What the workflow's own rules write."""
    params = resolve(config, "collect_metrics", {})
    collect_metrics(params, PATHS, PATHS.report("tables/metrics.csv"), PATHS.report("tables/results.json"))
    make_tables(PATHS.report("tables/results.json"), PATHS.report("tables"))


def tables(capsys, *settings):
    assert main(["tables", "--configfile", "study.yaml", *(["--config", *settings] if settings else [])]) == 0
    return capsys.readouterr().out


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_tables_of_a_study_without_results_show_what_is_missing(study, capsys):
    printed = tables(capsys)
    assert "zeroshot" in printed
    assert "g/lora/qasper/bm5/seed0" in printed, "missing cells are listed"
    assert "0 of 4 cells are done: these are the tables so far" in printed
    assert f"{FOLDER}/so-far/tables/comparison" in printed
    assert sorted(path.name for path in (study / FOLDER / "so-far/figures").iterdir()) == FIGURES
    assert [path.name for path in (study / FOLDER).iterdir()] == ["so-far"]


def test_a_finished_study_prints_the_workflows_tables_and_writes_nothing(study, capsys):
    for cell in expand_grid(CONFIG):
        finish(cell)
    workflow_report()
    before = contents(study)
    printed = tables(capsys)
    assert "40.0" in printed
    assert "so far" not in printed
    assert f"{FOLDER}/tables/comparison" in printed
    assert contents(study) == before


def test_a_selection_leaves_the_workflows_tables_alone(study, capsys):
    for cell in expand_grid(CONFIG):
        finish(cell)
    workflow_report()
    before = contents(study / FOLDER / "tables")
    printed = tables(capsys, "select={method: lora}")
    assert "2 of 2 selected cells are done" in printed
    assert "zeroshot" not in printed
    assert contents(study / FOLDER / "tables") == before
    assert len(load_results(PATHS.so_far("tables/results.json"))) == 2


@pytest.mark.parametrize("reason", ["missing", "damaged", "of a selection", "of a cell that was run again"])
def test_workflow_tables_that_do_not_hold_all_results_are_not_printed(study, capsys, reason):
    cells = expand_grid(CONFIG)
    for cell in cells:
        finish(cell)
    if reason == "damaged":
        write_json(PATHS.report("tables/results.json"), {"results": [{"model": "g"}]})
    elif reason == "of a selection":
        workflow_report(load_config({**SMALL, "select": {"method": "lora"}}))
    elif reason == "of a cell that was run again":
        workflow_report()
        finish(cells[0], 55.0)
    before = contents(study)
    printed = tables(capsys)
    assert "4 of 4 cells are done: these are the tables so far" in printed
    assert "zeroshot" in printed
    after = contents(study)
    assert {path: data for path, data in after.items() if "so-far" not in path.parts} == before


def test_an_unfinished_study_counts_its_cells(study, capsys):
    for cell in expand_grid(CONFIG)[:3]:
        finish(cell)
    workflow_report()
    assert "3 of 4 cells are done" in tables(capsys)
    help_text = " ".join(show_help(capsys).split())
    assert "print a finished study's table, or make tables of what is done" in help_text


def show_help(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    return capsys.readouterr().out


def test_later_files_and_settings_win(study):
    (study / "more.yaml").write_text("study: other\nmethods: {lora: {rank: 4}}\n")
    config = merged_config(["study.yaml", "more.yaml"], ["max_length=77", "select={method: lora}"])
    assert (config.study, config.methods["lora"].rank, config.max_length) == ("other", 4, 77)
    assert config.select.method == "lora"
    with pytest.raises(ConfigError, match="write KEY=VALUE"):
        merged_config(["study.yaml"], ["max_length"])


def test_errors_are_one_message_without_traceback(study, capsys):
    assert main(["tables", "--configfile", "nothing.yaml"]) == 1
    assert capsys.readouterr().err.strip() == "error: nothing.yaml: no such configuration file"


def test_documentation_is_written(study, repository, capsys):
    (study / "README.md").write_text((repository / "config" / "README.md").read_text())
    assert main(["docs", "."]) == 0
    assert (study / "schema.json").read_text() == (repository / "config" / "schema.json").read_text()


def test_failed_cells_are_shown_with_their_logs(study, capsys):
    finished, failed, killed, orphan = expand_grid(CONFIG)
    finish(finished)
    logs = {}
    for cell, rule, text in (
        (failed, "finetune_cell", "started\nended: error: out of memory\n"),
        (killed, "predict_cell", "started\n"),
    ):
        logs[cell] = Path(PATHS.log(rule, **vars(cell)))
        logs[cell].parent.mkdir(parents=True)
        logs[cell].write_text(text)
    printed = tables(capsys)
    assert "Failed, 2 of 4 cells: " in printed
    assert f"{failed.name}: error: out of memory (log: {logs[failed]})" in printed
    assert f"{killed.name}: killed without a word" in printed
    assert f"(log: {logs[killed]})" in printed
    assert f"{orphan.name} (missing)" in printed
    assert len(re.findall(r"^(?!Failed|Without).* failed", printed, re.MULTILINE)) == 2, "in the rows, for the numbers"
    statuses = {result.name: result.status for result in load_results(PATHS.so_far("tables/results.json"))}
    assert statuses == {finished.name: "done", failed.name: "failed", killed.name: "failed", orphan.name: "missing"}
    base = Path(PATHS.log("pretrain_model", model=orphan.model))
    base.parent.mkdir(parents=True)
    base.write_text("ended: error: no such corpus\n")
    assert f"{orphan.name}: error: no such corpus (log: {base})" in tables(capsys)
