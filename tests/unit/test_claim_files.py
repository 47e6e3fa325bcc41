"""Files of claims: what is refused, where they are found, and the way from a file to the verdicts of a study."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from scored_cases import collected, score_cells, study

from retrotune.cli import main
from retrotune.errors import ConfigError
from retrotune.report.judging.claims import judge_claims
from retrotune.runtime.files import read_json
from retrotune.study.config import Config, load_config, read_claims
from retrotune.study.paths import Paths
from retrotune.study.resolve import claim_testing, resolve
from retrotune.study.stages import ClaimTestParams

SAYS = {"says": "One is better."}
PLAIN: dict[str, Any] = {**SAYS, "kind": "difference", "of": {"family": "gpt"}, "against": {"family": "retro"}}
DOUBLE = {**SAYS, "kind": "difference_of_differences"}
SLOPE = {**SAYS, "kind": "slope"}
RANKING = {**SAYS, "kind": "ranking"}
GROWTH = {"start": {"family": "gpt"}, "end": {"family": "retro"}}


def write(path: Path, claims: dict[str, Any]) -> str:
    path.write_text(yaml.safe_dump(claims, sort_keys=False), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ({**PLAIN, "of": {"famly": "gpt"}}, "one.difference.of.famly: unknown key 'famly'; did you mean 'family'?"),
        ({**PLAIN, "marign": 1}, "one.difference.marign: unknown key 'marign'; did you mean 'margin'?"),
        ({**PLAIN, "of": {"family": "retr"}}, "of.family: .*found 'retr'.; did you mean 'retro'?"),
        ({**PLAIN, "within": {"method_kind": ["lora", "adaptr"]}}, "within.method_kind.1: .*did you mean 'adapter'?"),
        ({**PLAIN, "within": {"retriever_kind": "bm-25"}}, "within.retriever_kind: .*did you mean 'bm25'?"),
        ({**PLAIN, "within": {"size_rank": "smalest"}}, "within.size_rank: .*did you mean 'smallest'?"),
        ({**PLAIN, "within": {"size_from": 0}}, "within.size_from: .*greater than or equal to 1"),
        ({**PLAIN, "within": {"model": []}}, "within.model: .*at least 1 item"),
        ({**PLAIN, "within": {"model": "two words"}}, "within.model: a name has at most"),
        ({**PLAIN, "kind": "diffrence"}, "one: .*'diffrence'.*did you mean 'difference'?"),
        ({key: value for key, value in PLAIN.items() if key != "kind"}, "one: .*'kind'"),
        ({key: value for key, value in PLAIN.items() if key != "says"}, "one.difference.says: Field required"),
        ({**PLAIN, "direction": "up"}, "direction: .*'above' or 'below'"),
        ({**PLAIN, "margin": float("nan")}, "margin: .*finite"),
        ({**PLAIN, "needs": 0}, "needs: .*greater than 0"),
        ({**PLAIN, "needs": 1.2}, "needs: .*less than or equal to 1"),
        ({**PLAIN, "of": {"family": ["retro"]}}, "`of` and `against` choose the same cells"),
        ({**DOUBLE, "of": {"end": {}, "stop": {}}, "against": {}}, "of.stop: unknown key 'stop'; known: end, start"),
        (
            {**DOUBLE, "of": GROWTH, "against": GROWTH},
            "`of` and `against` are the same change",
        ),
        ({**DOUBLE, "of": {"start": {}, "end": {}}, "against": {}}, "`start` and `end` choose the same cells"),
        ({**SLOPE, "of": {"size": "a"}, "against": {}}, "size: differs between `of` and `against`.*`within`"),
        ({**RANKING, "order": [{}]}, "order: .*at least 2 items"),
        ({**RANKING, "order": [{"family": "gpt"}, {}, {}]}, "`order.1` and `order.2` choose the same cells"),
        ({**RANKING, "order": [{"family": "gpt"}, {}], "direction": "below"}, "direction: unknown key 'direction'"),
        ("RETRO is better", "one: .*found 'RETRO is better'"),
    ],
)  # fmt: skip
def test_what_is_refused_when_a_study_is_read(tmp_path, claim, message):
    file = write(tmp_path / "mine.yaml", {"one": claim})
    with pytest.raises(ConfigError, match=f"(?s)the claims have errors:\n  {file}: .*{message}"):
        study(tmp_path, {"gpt-s": {"family": "gpt", "size": "s"}}, claims=[file])


def test_all_problems_of_all_files_are_told(tmp_path):
    first = write(tmp_path / "first.yaml", {"one": PLAIN, "two": {**PLAIN, "of": {"family": "x"}}})
    second = write(tmp_path / "second.yaml", {"one": {**PLAIN, "margin": "wide"}})
    with pytest.raises(ConfigError) as found:
        read_claims([first, second])
    assert [line.partition(": ")[0].strip() for line in str(found.value).splitlines()[1:]] == [first, second]


def test_names_are_unique_over_files(tmp_path):
    files = [write(tmp_path / name, {"one": PLAIN}) for name in ("a.yaml", "b.yaml")]
    with pytest.raises(ConfigError, match=f"{files[1]}: one: {files[0]} has a claim of this name: rename one"):
        read_claims(files)
    (tmp_path / "a.yaml").write_text("one: {}\none: {}\n")
    with pytest.raises(ConfigError, match="a.yaml:2: one: duplicate key, given first in line 1"):
        read_claims(files[:1])


def test_files_are_found_beside_the_study_then_beside_the_workflow(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paper = read_claims(["config/claims.yaml"])
    assert {"retro-ahead-untrained", "gpt-gains-more", "ptuning-trails", "methods-rank"} <= set(paper)
    (tmp_path / "config").mkdir()
    write(tmp_path / "config" / "claims.yaml", {"mine": PLAIN})
    assert list(read_claims(["config/claims.yaml"])) == ["mine"]
    with pytest.raises(ConfigError, match=r"no file mine.yaml, neither in .* nor in .*claims: \[\]"):
        study(tmp_path, {"gpt-s": {"family": "gpt", "size": "s"}}, claims=["mine.yaml"])
    assert study(tmp_path, {"gpt-s": {"family": "gpt", "size": "s"}}, claims=[]).claims == ()


# from a file to verdicts --------------------------------------------------------------------------------------------
MODELS = {f"{family}-{size}": {"family": family, "size": size} for family in ("gpt", "retro") for size in "ab"}
PARAMETERS = {"gpt-a": 1000, "retro-a": 1100, "gpt-b": 2000, "retro-b": 2300}
RIGHT = {"zeroshot": 8, "ptuning": 12, "lora": 20}
CLAIMS = {
    "retro-ahead": {**PLAIN, "of": {"family": "retro"}, "against": {"family": "gpt"}, "says": "RETRO is ahead."},
    "missing": {**PLAIN, "within": {"method_kind": "ia3"}, "says": "With IA3 too."},
    "gain": {
        **DOUBLE,
        "of": {"start": {"family": "gpt", "trained": False}, "end": {"family": "gpt", "trained": True}},
        "against": {"start": {"family": "retro", "trained": False}, "end": {"family": "retro", "trained": True}},
    },
    "grows": {**SLOPE, "of": {}, "margin": 1.0},
    "rank": {**RANKING, "order": [{"method": "lora"}, {"method": "ptuning"}, {"method": "zeroshot"}]},
}


def say(cell, number):
    """RETRO knows ten answers more than GPT, and the methods differ."""
    place = (number * 7) % 40  # not one document's questions after another
    return "right one" if place < RIGHT[cell.method] + 10 * cell.model.startswith("retro") else "wrong"


@pytest.fixture
def config(tmp_path, monkeypatch) -> Config:
    monkeypatch.chdir(tmp_path)
    return study(tmp_path, MODELS, claims=[write(tmp_path / "mine.yaml", CLAIMS)])


def judge(config: Config, folder: Path) -> dict[str, dict[str, Any]]:
    collected(config, folder)
    text = resolve(config, "test_claims", {}).text()
    judge_claims(ClaimTestParams.of(text), folder / "results.json", folder / "scores.parquet", folder)
    return {record["name"]: record for record in read_json(folder / "claims.json")["claims"]}


def test_effects_are_the_scores_of_the_cells_times_their_weights(config, tmp_path):
    score_cells(config, say, PARAMETERS)
    found = judge(config, tmp_path / "tables")
    assert list(found) == list(CLAIMS), "in the order of the file"
    scores = {result.name: result.primary["value"] for result in collected(config, tmp_path / "tables")[0]}
    for record in found.values():
        sums = [sum(weight * scores[name] for name, weight in weights.items()) for weights in record["cells"]]
        assert record["effect"] == (pytest.approx(min(sums)) if sums else None)
    assert found["retro-ahead"]["effect"] == pytest.approx(100 * 10 / 40)
    assert found["retro-ahead"]["verdict"] == "supported"
    assert found["gain"]["effect"] == pytest.approx(0)
    assert found["grows"]["verdict"] == "undecided", "answers that are the same leave the spread unknown, not 0"
    assert 0.05 < found["grows"]["p"] <= 1
    assert found["rank"]["differences"] == pytest.approx([100 * 8 / 40, 100 * 4 / 40])
    assert found["missing"]["verdict"] == "not testable here"
    assert found["retro-ahead"]["num_questions"] == 80
    assert found["retro-ahead"]["num_clusters"] == 40 + 8, "questions of nq, documents of narrativeqa"


def test_a_cell_that_is_not_done_drops_its_pair(config, tmp_path):
    gone = ("retro-b", "lora", "nq")
    score_cells(config, lambda c, n: None if (c.model, c.method, c.dataset) == gone else say(c, n), PARAMETERS)
    found = judge(config, tmp_path / "tables")["retro-ahead"]
    assert (found["num_pairs"], found["num_expected_pairs"]) == (11, 12)
    assert found["excluded"] == {
        "retro-b/lora/nq/none/seed0": "missing",
        "gpt-b/lora/nq/none/seed0": "matched with retro-b/lora/nq/none/seed0, which has no score",
    }
    assert found["effect"] == pytest.approx(25)


def test_an_edited_claim_is_another_parameter_of_the_test_alone(config, tmp_path):
    before = {stage: resolve(config, stage, {}).text() for stage in ("test_claims", "collect_metrics", "make_tables")}
    write(tmp_path / "mine.yaml", {**CLAIMS, "grows": {**CLAIMS["grows"], "margin": 2.0}})
    after = {stage: resolve(config, stage, {}).text() for stage in before}
    assert {stage for stage in before if before[stage] != after[stage]} == {"test_claims"}


def printed(config: Config, capsys: pytest.CaptureFixture[str], folder: Path) -> str:
    file = folder / "study.yaml"
    file.write_text(json.dumps(config.given()), encoding="utf-8")
    assert main(["tables", "--configfile", str(file)]) == 0
    return capsys.readouterr().out


def test_retrotune_tables_ends_with_verdicts(config, tmp_path, capsys):
    score_cells(config, lambda c, n: None if c.model == "retro-b" else say(c, n), PARAMETERS)
    text = printed(config, capsys, tmp_path)
    assert "Not testable here: RETRO is ahead. (6 of the 12 matched pairs of the grid have scores" in text
    assert (tmp_path / "results/made-up/so-far/tables/claims.html").exists()
    assert not (tmp_path / "results/made-up/tables").exists()
    score_cells(config, say, PARAMETERS)
    folder = Path(Paths.of(config).report("tables"))
    judge(config, folder)
    lines = printed(config, capsys, tmp_path).splitlines()
    line = next(line for line in lines if "RETRO is ahead." in line)
    assert line.split()[0] == "supported"
    assert "+25.0" in line
    write(tmp_path / "mine.yaml", {"other": CLAIMS["rank"]})
    assert "is of other claims than the study has: run snakemake" in printed(config, capsys, tmp_path)
    (folder / "claims.json").unlink()
    assert "claims.json is not there: run snakemake" in printed(config, capsys, tmp_path)
    none = load_config({**config.given(), "claims": []})
    assert claim_testing(none).claims == ()
    assert "claims.json" not in printed(none, capsys, tmp_path)
