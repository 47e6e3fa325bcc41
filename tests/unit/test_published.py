"""Published numbers: files that are wrong are refused, those that fit stand beside a study's own."""

from pathlib import Path

import pytest
from report_cases import PUBLISHED, config_of, measures, params_of, result, study

import retrotune
from retrotune.errors import ConfigError
from retrotune.report.tables.published import published_table
from retrotune.report.tables.render import to_markdown
from retrotune.report.tables.table import Measured
from retrotune.study.config import Config, read_config
from retrotune.study.config.published import PublishedNumber, read_published
from retrotune.study.places import locate_file
from retrotune.study.reporting import beside
from retrotune.study.resolve import making_tables

HEADER = ",".join(PublishedNumber.model_fields)
LINE = {
    "family": "gpt", "size": "m", "parameters": "9500000000", "instruct": "no", "encoder": "", "passages": "yes",
    "method": "zeroshot", "dataset": "nq", "metric": "EM", "value": "24.43", "label": "RAG", "source": "a paper",
    "difference": "other data",
}  # fmt: skip


def written(folder: Path, *lines: str, header: str = HEADER) -> Path:
    path = folder / "numbers.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def line(**changes: str) -> str:
    return ",".join({**LINE, **changes}.values())


def test_a_file_of_published_numbers_is_read(tmp_path: Path) -> None:
    quoted = line(difference='"other data, the size ""9B"""')
    (number,) = read_published(written(tmp_path, quoted, ""))
    assert number.model_dump(exclude={"difference"}) == {
        "family": "gpt", "size": "m", "parameters": 9_500_000_000, "instruct": False, "encoder": None,
        "passages": True, "method": "zeroshot", "dataset": "nq", "metric": "EM", "value": 24.43, "label": "RAG",
        "source": "a paper",
    }  # fmt: skip
    assert number.difference == 'other data, the size "9B"'


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "bert"}, "family: Input should be 'gpt' or 'retro' (found 'bert')"),
        ({"instruct": "perhaps"}, "instruct: "),
        ({"instruct": ""}, "instruct: Field required"),
        ({"encoder": "half"}, "encoder: Input should be 'on' or 'off' (found 'half')"),
        ({"method": "tuning"}, "method: is none of zeroshot, "),
        ({"dataset": "squad9"}, "dataset: is none of nq, "),
        ({"metric": "exact_match"}, "metric: is none of EM, "),
        ({"value": "nan"}, "value: "),
        ({"value": "inf"}, "value: "),
        ({"value": "124"}, "value: Input should be less than or equal to 100 (found '124')"),
        ({"value": "24,43"}, "14 values for 13 columns: quote texts with commas"),
        ({"parameters": "9.5B"}, "parameters: "),
        ({"source": ""}, "source: Field required"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    path = written(tmp_path, line(), line(**changes))
    with pytest.raises(ConfigError) as caught:
        read_published(path)
    assert f"{path}:3: {message}" in str(caught.value)


def test_all_wrong_lines_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_published(written(tmp_path, line(value="-1"), line(), line(value="x", size="")))
    assert str(caught.value).count("\n") == 3


@pytest.mark.parametrize(
    "header", [HEADER.replace("family", "familie"), HEADER + ",more", HEADER.replace("size,", ""), f"{HEADER},size"]
)
def test_wrong_columns_are_refused(tmp_path: Path, header: str) -> None:
    with pytest.raises(ConfigError, match="numbers.csv:1: columns .*expected family, size, "):
        read_published(written(tmp_path, line(), header=header))


def test_what_is_no_file_of_numbers_is_refused(tmp_path: Path) -> None:
    empty, latin = tmp_path / "empty.csv", tmp_path / "latin.csv"
    empty.write_text("")
    latin.write_bytes(b"\xff\xfe" + 9 * b"\xe9")
    with pytest.raises(ConfigError, match="empty.csv:1: columns none; expected family"):
        read_published(empty)
    with pytest.raises(ConfigError, match="latin.csv: cannot be read"):
        read_published(latin)


def test_files_are_looked_for_here_and_in_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = locate_file("config/published.csv")
    assert shipped == Path(retrotune.__file__).parents[2] / "config/published.csv"
    (tmp_path / "config").mkdir()
    own = written(tmp_path / "config").rename(tmp_path / "config/published.csv")
    assert locate_file("config/published.csv").resolve() == own
    with pytest.raises(ConfigError, match="config/none.csv: no such file, neither here nor in "):
        locate_file("config/none.csv")


def test_the_shipped_numbers_stand_beside_the_papers_study(repository: Path) -> None:
    config = read_config(repository / "config/paper.yaml")
    assert config.published == ("config/published.csv",)
    found = {(model, one.dataset, one.number.value) for one in beside(config) for model in one.models}
    assert {("gpt-m", "nq", 24.43), ("retro-m", "nq", 25.93), ("retro-m", "triviaqa", 48.3)} <= found
    assert {("retro-xxl-instruct", "narrativeqa", 60.0), ("retro-xxl-instruct-encoder", "nq", 38.6)} <= found
    assert not any(one.number.passages is False for one in beside(config)), "the paper's study has passages everywhere"
    demo = read_config(repository / "config/config.yaml")
    assert list(beside(demo)) == []


def test_each_shipped_number_has_a_source_and_a_difference(repository: Path) -> None:
    numbers = read_published(repository / "config/published.csv")
    assert numbers
    assert all("arXiv" in number.source for number in numbers)
    keys = [(n.family, n.size, n.instruct, n.encoder, n.passages, n.method, n.dataset, n.label) for n in numbers]
    assert len(set(keys)) == len(keys)


@pytest.fixture
def numbers(tmp_path: Path) -> str:
    (tmp_path / "published.csv").write_text(PUBLISHED, encoding="utf-8")
    return str(tmp_path / "published.csv")


def test_numbers_stand_beside_the_rows_that_they_are_of(tmp_path: Path, numbers: str) -> None:
    results, scores = study()
    table = published_table(measures(tmp_path, results, scores), params_of(results, published=[numbers]).published)
    assert [(row[0], row[2], row[3], row[4], row[-1]) for row in table.rows] == [
        ("GPT", "zeroshot", "bm25", "nq (EM)", 24.43),
        ("GPT", "zeroshot", "none", "nq (EM)", 21.2),
        ("RETRO instruct, encoder off", "lora", "bm25", "qmsum (geo-ROUGE)", 15.0),
    ], "none of a model of twice the parameters, or by another metric"
    assert isinstance(table.rows[0][-2], Measured)
    assert table.rows[0][-2].low is not None


def test_a_model_of_another_size_than_its_name_says_is_left_out(tmp_path: Path, numbers: str) -> None:
    for count, shown in ((1_000_000, True), (1_499_000, True), (1_501_000, False), (900_000, False), (None, True)):
        results = [result("gpt-a", "zeroshot", "nq", num_parameters=count)]
        table = published_table(measures(tmp_path, results), params_of(results, published=[numbers]).published)
        assert any(row[-1] == 24.43 for row in table.rows) == shown


def test_a_study_like_no_published_one_has_a_table_that_says_so(tmp_path: Path, numbers: str) -> None:
    results = [result("gpt-other", "lora", "nq")]
    params = params_of(results, published=[numbers])
    assert params.published == ()
    table = published_table(measures(tmp_path, results), params.published)
    assert table.rows == []
    assert "No published number is of a model like one of this study" in to_markdown(table)


def test_a_metric_of_the_studys_own_has_no_published_number(numbers: str) -> None:
    results = [result("gpt-a", "zeroshot", "nq")]
    assert len(params_of(results, published=[numbers]).published) == 2
    own = params_of(results, published=[numbers], evaluation={"metrics": {"nq": ["contains"]}})
    assert own.published == ()


def names(config: Config) -> tuple[str, ...]:
    return making_tables(config).tables


def test_a_study_has_the_tables_that_it_has_rows_for(numbers: str) -> None:
    always = ("comparison", "comparison_long", "parameters", "cost", "cost_totals")
    base, tuned = result("gpt-a", "zeroshot", "nq"), result("gpt-a-tuned", "zeroshot", "nq", instruct=True)
    bare = result("gpt-a", "zeroshot", "nq", "none")
    assert names(config_of([base], published=[])) == always
    assert names(config_of([base], published=[numbers])) == (*always, "published")
    assert names(config_of([base, bare], published=[])) == (*always, "retrievals")
    assert names(config_of([base, tuned], published=[])) == (*always, "instruct")
    assert names(config_of([tuned], published=[])) == always
    selected = config_of([base, bare, tuned], published=[], select={"model": "gpt-a", "retrieval": "bm25"})
    assert names(selected) == always


def test_an_edit_of_a_line_that_matters_changes_what_tables_use(tmp_path: Path) -> None:
    results = [result("gpt-m", "zeroshot", "nq")]
    texts = []
    for lines in ([line()], [line(), line(family="retro")], [line(value="25")]):
        path = written(tmp_path, *lines)
        texts.append(params_of(results, published=[str(path)]).text())
    assert texts[0] == texts[1] != texts[2]
