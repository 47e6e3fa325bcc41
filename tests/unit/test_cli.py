"""The `retrotune` command."""

import os

import pytest
import yaml
from test_config import SMALL

from retrotune.cli import main, merged_config
from retrotune.errors import ConfigError


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(SMALL))
    return tmp_path


def test_tables_of_a_study_without_results_show_what_is_missing(study, capsys):
    assert main(["tables", "--configfile", "study.yaml"]) == 0
    printed = capsys.readouterr().out
    assert "zeroshot" in printed
    assert "g/lora/qasper/bm5/seed0" in printed, "missing cells are listed"
    assert "results/small/tables" in printed
    assert sorted(os.listdir(study / "results/small/figures")) == ["scaling.pdf", "scaling.png", "scaling.svg"]


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
