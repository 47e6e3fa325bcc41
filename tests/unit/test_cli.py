"""The `retrotune` command."""

import json
import re
from pathlib import Path

import pytest
import yaml
from record_cases import metric as value_of
from record_cases import metrics_record, question_scores, write_result
from snakemake.cli import parse_args, parse_config
from snakemake.settings.types import ConfigSettings
from test_config import SMALL

from retrotune.cli import main, merged_config
from retrotune.data.datasets import get_spec
from retrotune.data.scores import parts_of
from retrotune.errors import ConfigError
from retrotune.report.gathering.collect import collect_metrics, load_results
from retrotune.report.tables.making import make_tables
from retrotune.runtime.files import write_json
from retrotune.study.cells import expand_grid
from retrotune.study.config import check_files, load_config
from retrotune.study.paths import Paths
from retrotune.study.resolve import collecting, making_tables

CONFIG = load_config(SMALL)
PATHS = Paths.of(CONFIG)
FOLDER = "results/small"
FIGURES = [f"{name}.{suffix}" for name in ("cost", "gains", "learning", "scaling") for suffix in ("pdf", "png", "svg")]


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(SMALL))
    return tmp_path


def finish(cell, score=40.0):
    """A cell's result."""
    metric = get_spec(CONFIG.datasets[cell.dataset].reader).metric
    trained = cell.method != "zeroshot"
    model = {"num_parameters": None, "fingerprint": None, "departures": []}
    record = metrics_record(
        cell, trained, model=model, metrics={metric: value_of(score, n=9, ci_low=None, ci_high=None)}
    )
    lines = [question_scores(f"q{n}", **dict.fromkeys(parts_of([metric]), score)) for n in range(9)]
    write_result(PATHS.cell(cell), record, lines)


def workflow_report(config=CONFIG):
    """What the workflow's own rules write."""
    table, *collected = (PATHS.report(f"tables/{name}") for name in ("metrics.csv", "results.json", "scores.parquet"))
    collect_metrics(collecting(config), PATHS, table, *collected)
    make_tables(making_tables(config), *collected, PATHS.report("tables"))


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
    assert "zeroshot" not in printed.split("Claims and")[0]
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


@pytest.mark.parametrize("setting", ["max_length", "=3", "select.method=lora", "study=#x", "2=3"])
def test_what_is_no_setting_is_named(study, setting):
    with pytest.raises(ConfigError, match=re.escape(f"--config {setting}: write KEY=VALUE")):
        merged_config(["study.yaml"], ["max_length=9", setting])


def of_snakemake(*words):
    """What Snakemake's own command makes of words that name a study."""
    _, parsed = parse_args(["all", *words])
    return load_config(ConfigSettings(parse_config(parsed.config), parsed.configfile).overwrite_config)


@pytest.mark.parametrize(
    ("setting", "key", "value"),
    [
        ("study=2031-05-06", "study", "2031-05-06"),
        ("study=off", "study", "off"),
        ("study='quoted'", "study", "quoted"),
        ("max_length=0099", "max_length", 99),
        ("max_length=2_000", "max_length", 2000),
        ("data_root=a=b", "data_root", "a=b"),
        ("data_root=null", "data_root", "null"),
        ("data_root=", "data_root", None),
        ("resources_dir=[1", "resources_dir", "[1"),
        ("select={retrieval: on, seed: [1, 2]}", "select", {"retrieval": "on", "seed": [1, 2]}),
        ("select={'method': 'lora'}", "select", {"method": "lora"}),
        ("save_every={seconds: 1e2}", "save_every", {"seconds": 100.0}),
    ],
)
def test_settings_are_those_of_snakemake(study, setting, key, value):
    config = merged_config(["study.yaml"], ["max_length=5", setting])
    assert config == of_snakemake("--configfile", "study.yaml", "--config", "max_length=5", setting)
    found = getattr(config, key)
    assert (found.given() if isinstance(value, dict) else found) == value


def test_files_are_those_of_snakemake(study):
    """JSON with tabs, in which 1e3 is a number, and a template."""
    (study / "tabs.json").write_text(
        json.dumps({**SMALL, "max_length": "LENGTH"}, indent="\t").replace('"LENGTH"', "1e3")
    )
    (study / "template.yaml").write_text("__use_yte__: true\nmax_length: ?3 * 4\n")
    for files, length in ((["tabs.json"], 1000), (["tabs.json", "template.yaml"], 12)):
        config = merged_config(files, [])
        assert config == of_snakemake("--configfile", *files)
        assert config.max_length == length
    (study / "tabs.json").write_text("\ufeff" + json.dumps(SMALL, indent="\t"))
    with pytest.raises(ConfigError, match=r"tabs.json: .* not valid JSON or YAML"):
        merged_config(["tabs.json"], [])


def test_settings_that_say_something_twice_are_refused_for_both_commands(study):
    for refuse in (lambda word: merged_config(["study.yaml"], [word]), lambda word: check_files([], ["-C", word])):
        refuse("select={method: lora}")
        with pytest.raises(ConfigError, match="--config select:1: method: duplicate key"):
            refuse("select={method: lora, method: zeroshot}")


CELL = "g/lora/nq/bm5/seed0"
CACHES = ["x/neighbors/bm5/nq/test.parquet", "x/pretraining/p/neighbors-64.json"]


@pytest.mark.parametrize(
    ("command", "names", "flags"),
    [
        ("explain", {"cell": CELL}, []),
        ("prompt", {"cell": CELL, "question": "what is x=1"}, ["--json"]),
        ("verify-neighbors", {"cache": CACHES}, ["--sample", "3"]),
        ("status", {}, []),
        ("tables", {}, []),
        ("plan", {}, ["--study-only", "--passages", "3"]),
    ],
)
def test_options_stand_before_and_after_names(monkeypatch, command, names, flags):
    seen = []
    for name in ("show_explanation", "show_prompt", "verify_neighbors", "show_status", "show_tables", "plan"):
        monkeypatch.setattr(f"retrotune.cli.{name}", lambda arguments: seen.append(vars(arguments)))
    words = [word for value in names.values() for word in ([value] if isinstance(value, str) else value)]
    files, settings = ["--configfile", "a.yaml", "b.json"], ["--config", "study=s", "select={seed: 1}"]
    lines = [
        [*words, *files, *settings, *flags],
        [*files, *words, *settings, *flags],
        [*flags, *files, *settings, *words],
        [*settings, *words, *files, *flags],
        [*settings, *flags, *files, *words],
        ["--configfiles", *files[1:], "-C", *settings[1:], *words, *flags],
        [*words[:1], *files, *words[1:], *flags, *settings],
        *([[*files, *settings, *flags, "--", *words]] if words else []),
    ]
    for line in lines:
        main([command, *line])
        for key, value in {**names, "configfile": files[1:], "config": settings[1:]}.items():
            assert seen[-1][key] == value, line
    main([command, "--configfile=a.yaml", *words])
    assert (seen[-1]["configfile"], len(seen)) == (["a.yaml"], len(lines) + 1)


def test_options_given_twice_and_names_not_given_are_refused(capsys):
    for words, message in (
        (["status", "--configfile", "a", "--configfile", "b"], "--configfile is given twice, of which Snakemake reads"),
        (["status", "--config", "aa=1", "--config", "bb=2"], "--config is given twice, of which Snakemake reads"),
        (["explain", "--configfile", "a.yaml"], "required: CELL"),
        (["prompt", CELL, "--config", "aa=1"], "required: QUESTION"),
    ):
        with pytest.raises(SystemExit):
            main(words)
        assert message in capsys.readouterr().err


def test_conversion_takes_options_anywhere(monkeypatch):
    seen = []
    monkeypatch.setattr("retrotune.cli.convert", lambda arguments: seen.append((arguments.source, arguments.out)))
    for line in (["a", "b", "--vocab-size", "3"], ["--vocab-size", "3", "a", "b"], ["a", "--vocab-size", "3", "b"]):
        main(["convert", *line])
    assert seen == [("a", "b")] * 3


@pytest.mark.parametrize(("option", "number"), [("--seed", -1), ("--seed", 2**32), ("--sample", -1)])
def test_samples_have_seeds_as_studies_have_them(study, capsys, option, number):
    assert main(["verify-neighbors", "--configfile", "study.yaml", option, str(number)]) == 1
    assert f"{option} {number}" in capsys.readouterr().err


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
