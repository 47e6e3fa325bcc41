"""Claims over a made-up study whose effects are known: which cells they match, and what they say."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from claim_cases import PARAMETERS, cell, grid, judged, sheets_of
from hypothesis import given, settings
from hypothesis import strategies as st

from retrotune.errors import ResultError
from retrotune.report.gathering.collect import runs_of
from retrotune.report.judging.claims import claims_table, compact_table, judge, write_claims
from retrotune.report.tables.render import to_text
from retrotune.scoring.contrasts import outcome
from retrotune.study.config.claim_files import check_claims
from retrotune.study.stages import ClaimTestParams

FAMILIES: dict[str, Any] = {"kind": "difference", "of": {"family": "retro"}, "against": {"family": "gpt"}}
GAIN = {
    "kind": "difference_of_differences",
    "of": {
        "start": {"family": "gpt", "method_kind": "zeroshot"},
        "end": {"family": "gpt", "method_kind": ["lora", "adapter"]},
    },
    "against": {
        "start": {"family": "retro", "method_kind": "zeroshot"},
        "end": {"family": "retro", "method_kind": ["lora", "adapter"]},
    },
}


def log_size(result) -> float:
    return math.log2(PARAMETERS[result.size])


def names(judgement) -> set[str]:
    return {cell.name for weights in judgement.match.combinations for cell in weights}


@pytest.mark.parametrize(
    ("effect", "margin", "direction", "verdict"),
    [
        (6, 0, "above", "supported"),
        (6, 0, "below", "contradicted"),
        (-6, 0, "above", "contradicted"),
        (-6, 0, "below", "supported"),
        (0.1, 0, "above", "undecided"),
        (6, 6, "above", "undecided"),
        (6, 2, "above", "supported"),
        (6, 10, "above", "contradicted"),
        (6, 10, "below", "supported"),
    ],
)
def test_a_difference_and_its_verdict(effect, margin, direction, verdict):
    claim = {**FAMILIES, "margin": margin, "direction": direction}
    found = judged(grid(), lambda cell: 40 + effect * (cell.family == "retro") + 9 * (cell.size == "b"), one=claim)[
        "one"
    ]
    assert found.outcome.estimate.value == pytest.approx(effect)
    assert found.verdict == verdict
    assert (found.match.num_pairs, found.match.num_expected) == (8, 8)
    assert found.outcome.estimate.num_clusters == 2 * 30
    assert found.outcome.estimate.num_questions == 2 * 90
    assert all(abs(weight) == 1 / 8 for weight in found.match.combinations[0].values())
    assert found.excluded == {}


def test_the_p_of_a_plain_difference_is_that_of_swapped_arms_and_of_a_margin_the_bootstrap():
    found = judged(
        grid(), lambda cell: 40 + (cell.family == "retro"), plain=FAMILIES, margin={**FAMILIES, "margin": 1.0}
    )
    assert found["plain"].match.pairs is not None
    assert 0 < found["plain"].outcome.p < 1
    assert found["margin"].outcome.p == pytest.approx(1.0, abs=0.02)


def test_a_difference_of_differences_matches_method_by_method():
    """GPT gains 12, RETRO 5 with either method; RETRO's adapter of size b failed and takes its pair with it."""
    results = grid(methods=("zeroshot", "lora", "adapter"))
    gone = cell("retro", "b", "adapter", "qasper", status="failed")
    results = [gone if result.name == gone.name else result for result in results]

    def score(cell):
        return 30 + (12 if cell.family == "gpt" else 5) * cell.trained + 20 * (cell.method == "adapter")

    found = judged(results, score, one=GAIN)["one"]
    assert found.outcome.estimate.value == pytest.approx(7)
    assert found.verdict == "supported"
    assert (found.match.num_pairs, found.match.num_expected) == (7, 8)
    assert found.excluded == {
        gone.name: "failed: out of memory",
        "gpt-b/adapter/qasper/found/seed0": f"matched with {gone.name}, which has no score",
    }
    assert found.match.pairs is None, "arms of four cells are not swapped"


def test_slopes_count_points_per_doubling():
    results = grid(sizes=tuple(PARAMETERS), methods=("zeroshot", "lora"))

    def score(cell):
        return 10 + (3 if cell.family == "gpt" else 0.2) * log_size(cell) + 15 * cell.trained

    found = judged(
        results,
        score,
        noise=1.0,
        gpt={"kind": "slope", "of": {"family": "gpt"}, "margin": 1},
        flat={"kind": "slope", "of": {"family": "retro"}, "margin": 1, "direction": "below"},
        gap={"kind": "slope", "of": {"family": "retro"}, "against": {"family": "gpt"}, "direction": "below"},
        upper={"kind": "slope", "of": {"family": "gpt", "size_from": "middle"}, "margin": 1},
    )
    values = {name: judgement.outcome.estimate.value for name, judgement in found.items()}
    assert values == pytest.approx({"gpt": 3, "flat": 0.2, "gap": -2.8, "upper": 3})
    assert {judgement.verdict for judgement in found.values()} == {"supported"}
    assert {name.split("/")[0] for name in names(found["upper"])} == {"gpt-c", "gpt-d"}
    assert found["upper"].match.num_pairs == 2 * 2 * 2


def test_a_slope_keeps_groups_apart_when_cells_are_missing():
    """Scores differ by 50 between datasets: without the small size of one of them the slope stays as it is."""
    results = [
        replace(result, status="missing", metrics={}) if (result.size, result.dataset) == ("a", "quality") else result
        for result in grid(("gpt",), ("a", "b", "c"), ("lora",))
    ]
    found = judged(
        results, lambda cell: 2 * log_size(cell) + 50 * (cell.dataset == "quality"), one={"kind": "slope", "of": {}}
    )["one"]
    assert found.outcome.estimate.value == pytest.approx(2)
    assert (found.match.num_pairs, found.match.num_expected) == (5, 6)
    lone = [result for result in results if result.size != "c"]
    found = judged(lone, lambda cell: log_size(cell), one={"kind": "slope", "of": {}, "needs": 0.5})["one"]
    assert found.match.num_pairs == 2
    assert found.excluded["gpt-b/lora/quality/found/seed0"] == "no other size of its group has scores"


def test_a_slope_is_that_of_least_squares_with_a_level_per_group():
    """Against numpy's least squares, with scores at random and some cells missing."""
    rng = np.random.default_rng(3)
    results = grid(("gpt",), tuple(PARAMETERS), ("zeroshot", "lora"))
    results = [result for number, result in enumerate(results) if number not in (1, 6, 12)]
    scores = dict(zip((result.name for result in results), rng.uniform(0, 100, len(results)), strict=True))
    groups = sorted({(result.method, result.dataset) for result in results})
    design = [[log_size(r), *((r.method, r.dataset) == group for group in groups)] for r in results]
    expected = np.linalg.lstsq(np.array(design, dtype=float), np.array(list(scores.values())), rcond=None)[0][0]
    found = judged(results, lambda cell: scores[cell.name], one={"kind": "slope", "of": {}, "needs": 0.1})["one"]
    assert found.outcome.estimate.value == pytest.approx(expected)


@settings(max_examples=30)
@given(st.data())
def test_exchanged_sides_say_the_opposite(data):
    """Whatever the scores and gaps: the effect changes its sign, and `above` becomes `below`."""
    results = grid(methods=("zeroshot", "lora", "adapter"))
    status = data.draw(st.lists(st.sampled_from(["done", "done", "missing"]), min_size=24, max_size=24))
    scores = data.draw(st.lists(st.integers(20, 80), min_size=24, max_size=24))
    score_of = {result.name: score for result, score in zip(results, scores, strict=True)}
    results = [
        replace(result, status=word, metrics=result.metrics if word == "done" else {})
        for result, word in zip(results, status, strict=True)
    ]
    one = {**GAIN, "needs": 0.1}
    other = {**one, "of": GAIN["against"], "against": GAIN["of"], "direction": "below"}
    # each by itself: Holm's levels of two claims differ
    first, second = (
        judged(results, lambda cell: score_of[cell.name], resamples=20, claim=claim)["claim"] for claim in (one, other)
    )
    assert first.verdict == second.verdict
    if first.match is None:
        assert second.match is None
        return
    assert first.outcome.estimate.value == pytest.approx(-second.outcome.estimate.value)
    assert first.match.num_pairs == second.match.num_pairs
    for weights in first.match.combinations:
        assert sum(weights.values()) == pytest.approx(0)
        assert sum(weight for weight in weights.values() if weight > 0) <= 2 + 1e-9
        done = {result.name for result in results if result.status == "done"}
        assert {cell.name for cell in weights} <= done


def test_a_ranking_is_as_sure_as_its_closest_neighbors():
    order = [{"method_kind": ["adapter", "lora"]}, {"method_kind": "ptuning"}, {"method_kind": "zeroshot"}]
    level = {"adapter": 60, "lora": 60, "ptuning": 52, "zeroshot": 30}
    results = grid(methods=tuple(level))
    claim = {"kind": "ranking", "order": order}
    found = judged(results, lambda cell: level[cell.method], one=claim, wide={**claim, "margin": 12})
    assert found["one"].outcome.estimate.means_K == pytest.approx((8, 22))
    assert found["one"].outcome.estimate.value == pytest.approx(8)
    assert found["one"].match.num_expected == 2 * 8 + 8
    assert {name: one.verdict for name, one in found.items()} == {"one": "supported", "wide": "contradicted"}
    found = judged(results, lambda cell: level[cell.method], one={**claim, "order": order[::-1]})["one"]
    assert found.verdict == "contradicted"


# matching -----------------------------------------------------------------------------------------------------------
def test_cells_are_matched_on_what_the_selectors_do_not_set():
    """Sizes of one family only, controls and other gates have no partner; the claim says which cells may count."""
    results = [
        *grid(sizes=("a",), datasets=("qasper",)),
        cell("gpt", "b"),
        cell("gpt", "a", retrieval="none"),
        cell("retro", "a", retrieval="none"),
        cell("retro", "a", model="retro-a-off", retrieval_gate=0.0),
    ]
    within = {"retriever_kind": "dense", "retrieval_gate": 1}
    found = judged(results, lambda cell: 40, one={**FAMILIES, "within": within}, all=FAMILIES)
    assert names(found["one"]) == {result.name for result in grid(sizes=("a",), datasets=("qasper",))}
    assert found["one"].excluded == {"gpt-b/lora/qasper/found/seed0": "nothing in the grid to match it with"}
    assert found["one"].match.num_expected == 2
    assert found["all"].match.num_expected == 4, "a control of both families, and one GPT against both gates"


def test_size_is_matched_by_label_and_selected_by_rank():
    results = grid(sizes=("c", "a", "d", "b"))
    small = {"kind": "difference", "of": {"size_rank": 1}, "against": {"size_rank": "largest"}, "direction": "below"}
    found = judged(results, lambda cell: log_size(cell), small=small, third={**small, "of": {"size_rank": 3}})
    assert {name.split("/")[0] for name in names(found["small"])} == {"gpt-a", "gpt-d", "retro-a", "retro-d"}
    assert found["small"].outcome.estimate.value == pytest.approx(-3)
    assert found["third"].outcome.estimate.value == pytest.approx(-1)


def test_what_is_not_trained_is_matched_with_every_seed():
    results = [cell("gpt", "a", "zeroshot"), *(cell("gpt", "a", "lora", seed=seed) for seed in range(3))]
    claim = {"kind": "difference", "of": {"trained": True}, "against": {"trained": False}}
    found = judged(results, lambda cell: 10 + cell.seed * cell.trained, one=claim)["one"]
    assert found.outcome.estimate.value == pytest.approx(1)
    assert found.match.num_pairs == 1, "three runs of one row are one pair"
    weights = {cell.name: weight for cell, weight in found.match.combinations[0].items()}
    assert weights == pytest.approx(
        {"gpt-a/zeroshot/qasper/found/seed0": -1, **{f"gpt-a/lora/qasper/found/seed{s}": 1 / 3 for s in range(3)}}
    )


def test_replicates_are_runs_of_one_row_and_their_spread_counts():
    """Three trainings of each size: RETRO leads by 2 on average, and by 6, 0 and 0 in the single trainings."""
    lead = {0: 6, 1: 0, 2: 0}

    def models(size, number):
        suffix = f"-r{number}" if number else ""
        for family in ("gpt", "retro"):
            original = f"{family}-{size}" if number else None
            yield cell(family, size, "zeroshot", model=f"{family}-{size}{suffix}", replicate_of=original)

    results = [one for number in range(3) for size in "ab" for one in models(size, number)]

    def score(cell):
        number = int(cell.model.rpartition("-r")[2]) if cell.replicate_of else 0
        return 40 + lead[number] * (cell.family == "retro")

    several = judged(results, score, noise=1.0, one=FAMILIES)["one"]
    assert several.outcome.estimate.value == pytest.approx(2)
    assert several.match.num_pairs == 2
    assert (several.outcome.num_runs, several.outcome.borrowed) == (3, 0)
    one = judged(results[:4], lambda cell: 40 + 2 * (cell.family == "retro"), noise=1.0, one=FAMILIES)["one"]
    assert (one.outcome.num_runs, one.outcome.borrowed) == (1, 1)
    assert one.verdict == "supported"
    assert several.verdict == "undecided", "what one training shows, three may take back"
    assert several.outcome.p == pytest.approx(several.outcome.estimate.p_value(0))


def test_replicates_of_some_methods_only():
    """Trainings of the base model differ by 8, and each gains 10 with either method: their gain does not vary."""
    results = []
    for number, methods in enumerate((("zeroshot", "lora", "ptuning"), ("zeroshot", "lora"), ("zeroshot", "lora"))):
        named = {"model": f"gpt-a-r{number}", "replicate_of": "gpt-a"} if number else {}
        results += [cell("gpt", "a", method, **named) for method in methods]

    def score(cell):
        return 30 + 8 * (int(cell.model[-1]) if cell.replicate_of else 0) + 10 * cell.trained

    claim = {"kind": "difference", "of": {"trained": True}, "against": {"trained": False}}
    found = judged(results, score, noise=0.5, one=claim)["one"]
    assert found.outcome.estimate.value == pytest.approx(10)
    assert found.match.num_pairs == 2
    assert found.outcome.estimate.se < 1, "what cells of one training share is no spread of their difference"
    assert found.verdict == "supported"
    same = outcome(sheets_of(results, score, 0.5), found.match.combinations, runs_of(results), pairs=found.match.pairs)
    assert same.estimate.se == pytest.approx(found.outcome.estimate.se), "pairs say the same"


def test_a_failed_run_leaves_the_pair_to_the_others():
    results = [cell(family, "a", seed=seed) for family in ("gpt", "retro") for seed in range(2)]
    results[3] = cell("retro", "a", seed=1, status="failed")
    found = judged(results, lambda cell: 40 + 3 * (cell.family == "retro"), one=FAMILIES)["one"]
    assert (found.match.num_pairs, found.match.num_expected) == (1, 1)
    assert names(found) == {"gpt-a/lora/qasper/found/seed0", "retro-a/lora/qasper/found/seed0"}
    assert set(found.excluded) == {results[1].name, results[3].name}


# not testable -------------------------------------------------------------------------------------------------------
def problem(results, **claim) -> str:
    found = judged(results, lambda cell: 40, one=claim)["one"]
    assert found.verdict == "not testable here"
    assert found.outcome is None
    return found.problem


def test_what_a_study_lacks_is_not_testable_there():
    nothing = problem(grid(("gpt",)), **FAMILIES)
    assert nothing == "of: no cell of this study has family retro"
    named = problem(grid(), **{**FAMILIES, "within": {"model": ["gpt-xl", "gpt-xxl"], "trained": True}})
    assert named == "of: no cell of this study has trained true; model gpt-xl or gpt-xxl; family retro"
    unlike = problem([cell("gpt", "a"), cell("retro", "b")], **FAMILIES)
    assert unlike.startswith("no cells of the grid match: they differ in one of")
    assert "size" in unlike
    one_size = problem(grid(sizes=("a",)), kind="slope", of={"family": "gpt"})
    assert one_size == "a slope needs two sizes, but the 4 matched pairs with scores are of one size"
    both = problem(grid(), kind="difference", of={"trained": True}, against={"method_kind": "lora"})
    assert both == "of and against both choose gpt-a/lora/qasper/found/seed0 and 7 cells more"


def test_too_few_pairs_are_not_testable():
    results = grid(datasets=("qasper", "quality", "qmsum"), methods=("lora",), sizes=("a", "b"))
    for number in range(2):
        results[number] = replace(results[number], status="missing", metrics={})
    found = judged(results, lambda cell: 40, strict=FAMILIES, lenient={**FAMILIES, "needs": 0.6})
    assert found["strict"].problem == (
        "4 of the 6 matched pairs of the grid have scores, fewer than the share of 0.8 that the claim needs"
    )
    assert found["strict"].excluded[results[0].name] == "missing"
    assert found["lenient"].match.num_pairs == 4
    none = [replace(result, status="failed", metrics={}) for result in results]
    assert problem(none, **FAMILIES) == "none of the 6 matched pairs of the grid has scores"


def test_ranks_need_parameters_and_questions_of_several_documents():
    results = grid(sizes=("a", "b", "c"))
    results = [
        replace(result, status="missing", metrics={}, num_parameters=None) if result.model == "gpt-c" else result
        for result in results
    ]
    unknown = problem(results, kind="slope", of={"family": "gpt", "size_from": 2})
    assert "not known of c: none of its cells is done" in unknown
    known = problem(results, kind="slope", of={"family": "retro", "size_from": 4})
    assert known == "of: no cell of this study has family retro; size_from 4"
    params = ClaimTestParams(
        claims=[*check_claims({"one": {"says": "x", **FAMILIES}}).items()], retrievals={"found": "bm25"}, resamples=9
    )
    pair = [cell("gpt", "a"), cell("retro", "a")]
    sheets = {
        name: replace(sheet, clusters=("same",) * len(sheet.clusters))
        for name, sheet in sheets_of(pair, lambda c: 1).items()
    }
    found = judge(params, pair, sheets)[0]
    assert (found.verdict, found.outcome) == ("not testable here", None)
    assert "one document" in found.problem


def test_cells_of_a_model_that_was_made_anew_are_not_compared():
    results = grid(sizes=("a",), fingerprint="first")
    results[0] = replace(results[0], fingerprint="second")
    reason = problem(results, **FAMILIES)
    assert reason.startswith("cells of gpt-a rest on different base models")


def test_a_cell_without_scores_by_question_is_an_error():
    results = grid()
    params = ClaimTestParams(
        claims=[*check_claims({"one": {"says": "x", **FAMILIES}}).items()], retrievals={"found": "bm25"}, resamples=9
    )
    with pytest.raises(ResultError, match="retro-b/lora/quality/found/seed0: done, but not in tables/scores.parquet"):
        judge(params, results, sheets_of(results[:-1], lambda cell: 40))


# tables -------------------------------------------------------------------------------------------------------------
def test_holm_over_all_testable_claims():
    claims = {f"claim{number}": {**FAMILIES, "margin": number} for number in range(4)}
    found = judged(
        grid(), lambda cell: 40 + 3 * (cell.family == "retro"), **claims, gone={**FAMILIES, "of": {"model": "x"}}
    )
    alone = judged(grid(), lambda cell: 40 + 3 * (cell.family == "retro"), claim0=claims["claim0"])["claim0"]
    assert alone.level == pytest.approx(0.95)
    assert found["claim0"].level == pytest.approx(1 - 0.05 / 4)
    assert found["claim0"].p_adjusted == pytest.approx(4 * found["claim0"].outcome.p)
    assert found["gone"].level is None


SPECIAL = 'A <script>alert("x")</script> & 5 % of $x_1$ {\\em more} #1 | y'


def test_texts_are_escaped_in_every_form(tmp_path):
    claims = check_claims(
        {"one": {**FAMILIES, "says": SPECIAL}, "two": {**FAMILIES, "says": SPECIAL, "of": {"model": "x"}}}
    )
    params = ClaimTestParams(claims=claims.items(), retrievals={"found": "dense"}, resamples=99)
    results = grid()
    write_claims(params, judge(params, results, sheets_of(results, lambda cell: 40)), tmp_path)
    page = (tmp_path / "claims.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    tex = (tmp_path / "claims.tex").read_text()
    assert r"5 \% of \$x\_1\$ \{\textbackslash{}em more\} \#1 \textbar{} y" in tex
    line = next(line for line in (tmp_path / "claims.md").read_text().splitlines() if line.startswith("| undecided"))
    assert line.count(" | ") == 10
    assert "\\|" in line
    found = json.loads((tmp_path / "claims.json").read_text())
    assert [record["says"] for record in found["claims"]] == [SPECIAL, SPECIAL]
    assert found["uses"] == params.recorded()
    assert (tmp_path / "claims.csv").read_text().count("not testable here") == 1


def test_tables_say_what_the_verdicts_rest_on():
    results = grid()
    found = judged(
        results, lambda cell: 40 + 6 * (cell.family == "retro"), one=FAMILIES, two={**FAMILIES, "of": {"model": "x"}}
    )
    records = [judgement.record() for judgement in found.values()]
    assert records[0]["effect"] == pytest.approx(6)
    assert records[0]["num_pairs"] == 8
    assert set(records[0]["cells"][0]) == {result.name for result in results}
    assert records[1]["problem"] == "of: no cell of this study has model x"
    printed = to_text(compact_table(records))
    assert "supported" in printed
    assert "one holds." in printed
    assert "+6.0" in printed
    assert "Not testable here: two holds. (of: no cell of this study has model x)" in printed
    assert "trained with one seed" in printed
    table = claims_table(records)
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert (row["Expected"], row["Pairs"], row["Questions"], row["Clusters"]) == ("above 0", 8, 180, 60)
    assert row["Detectable"] == records[0]["detectable"] > 0
    assert json.loads(json.dumps(records)) is not None
