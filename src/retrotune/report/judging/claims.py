"""Claims tested: each one's effect, interval and p, and the verdict that follows from the interval.

Holm's procedure over all claims that can be tested in the study makes their verdicts hold together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrotune.errors import ResultError
from retrotune.report.gathering.collect import Result, load_results, load_sheets
from retrotune.report.judging.claim_cells import Grid, Match, NotTestableError, match
from retrotune.report.tables.render import to_text, write_table
from retrotune.report.tables.table import Measured, Table, Value
from retrotune.runtime.files import read_result, write_json
from retrotune.runtime.log import logger
from retrotune.scoring.contrasts import Outcome, outcome
from retrotune.scoring.sheets import Sheet
from retrotune.scoring.statistics import LEVEL, holm
from retrotune.study.config.claims import Claim, RankingClaim, SlopeClaim
from retrotune.study.stages import ClaimTestParams

SUPPORTED, CONTRADICTED, UNDECIDED, NOT_TESTABLE = "supported", "contradicted", "undecided", "not testable here"


@dataclass(frozen=True)
class Judgement:
    """A claim and what a study says of it. Without an outcome it is not testable there, and `problem` says why."""

    name: str
    claim: Claim
    verdict: str
    problem: str | None = None
    match: Match | None = None
    outcome: Outcome | None = None
    interval: tuple[float, float] | None = None
    level: float | None = None
    p_adjusted: float | None = None
    excluded: Mapping[str, str] | None = None

    def record(self) -> dict[str, Any]:
        """As it stands in claims.json."""
        found, matched = self.outcome, self.match
        estimate = None if found is None else found.estimate
        return {
            "name": self.name,
            **self.claim.model_dump(mode="json", exclude_none=True, include={"kind", "says", "source", "margin"}),
            "direction": direction(self.claim),
            "unit": unit(self.claim),
            "verdict": self.verdict,
            "problem": self.problem,
            "effect": None if estimate is None else estimate.value,
            "interval": self.interval,
            "level": self.level,
            "se": None if estimate is None else estimate.se,
            "p": None if found is None else found.p,
            "p_adjusted": self.p_adjusted,
            "detectable": None if estimate is None or self.level is None else estimate.detectable(self.level),
            "num_pairs": None if matched is None else matched.num_pairs,
            "num_expected_pairs": None if matched is None else matched.num_expected,
            "num_questions": None if estimate is None else estimate.num_questions,
            "num_clusters": None if estimate is None else estimate.num_clusters,
            "num_runs": None if found is None else found.num_runs,
            "borrowed": None if found is None else found.borrowed,
            "differences": estimate.means_K if estimate is not None and len(estimate.means_K) > 1 else None,
            "cells": []
            if matched is None
            else [{cell.name: weight for cell, weight in weights.items()} for weights in matched.combinations],
            "excluded": dict(self.excluded or {}),
        }


def judge_claims(params: ClaimTestParams, results_json: str | Path, scores: str | Path, folder: str | Path) -> None:
    """Write `claims` into `folder` as json and in all forms of tables: the study's claims, each with its verdict."""
    results = load_results(results_json)
    judgements = judge(params, results, load_sheets(scores, results))
    write_claims(params, judgements, folder)


def judge(params: ClaimTestParams, results: Sequence[Result], sheets: Mapping[str, Sheet]) -> list[Judgement]:
    """Test all claims together, in their order."""
    grid = Grid(results, params.retrievals)
    # fine enough for the smallest level that Holm's procedure may ask for
    resamples = max(params.resamples, round(10 * len(params.claims) / (1 - LEVEL)))
    found: dict[str, tuple[Match, Outcome]] = {}
    judgements: dict[str, Judgement] = {}
    for name, claim in params.claims:
        try:
            matched = match(claim, grid)
        except NotTestableError as error:
            judgements[name] = Judgement(name, claim, NOT_TESTABLE, str(error), excluded=error.excluded)
            continue
        _check_scored(matched, sheets)
        tested = outcome(
            sheets,
            matched.combinations,
            grid.runs,
            null=claim.margin,
            pairs=matched.pairs,
            parts=matched.parts,
            resamples=resamples,
        )
        if tested.p is None:
            problem = "a dataset's questions are all about one document, which says nothing of their spread"
            judgements[name] = Judgement(name, claim, NOT_TESTABLE, problem, matched, excluded=matched.excluded)
        else:
            found[name] = matched, tested
    adjusted = holm({name: float(tested.p or 0) for name, (_, tested) in found.items()})
    claims = dict(params.claims)
    for name, (matched, tested) in found.items():
        p, level = adjusted[name]
        interval = tested.estimate.interval(level)
        assert interval is not None, "what has a p has an interval"
        judgements[name] = Judgement(
            name,
            claims[name],
            verdict(claims[name], interval),
            None,
            matched,
            tested,
            interval,
            level,
            p,
            matched.excluded,
        )
    return [judgements[name] for name, _ in params.claims]


def _check_scored(matched: Match, sheets: Mapping[str, Sheet]) -> None:
    """Raise `ResultError` for a cell that is done and has no scores by question: its weight would count for nothing."""
    for weights in matched.combinations:
        for cell in weights:
            if cell.dataset not in sheets or cell not in sheets[cell.dataset].place_of:
                raise ResultError(
                    f"{cell.name}: done, but not in tables/scores.parquet; run snakemake, which collects it"
                )


def direction(claim: Claim) -> str:
    """The side of the margin on which a claim says that its effect lies."""
    return "above" if isinstance(claim, RankingClaim) else claim.direction


def unit(claim: Claim) -> str:
    """What a claim's effect, margin and interval are counted in."""
    return "points per doubling of parameters" if isinstance(claim, SlopeClaim) else "points"


def verdict(claim: Claim, interval: tuple[float, float]) -> str:
    """What follows from an interval: a side of the margin only where it lies wholly there."""
    low, high = interval
    sides = {"above": low > claim.margin, "below": high < claim.margin}
    if not any(sides.values()):
        return UNDECIDED
    return SUPPORTED if sides[direction(claim)] else CONTRADICTED


# tables -------------------------------------------------------------------------------------------------------------
def write_claims(params: ClaimTestParams, judgements: Sequence[Judgement], folder: str | Path) -> None:
    """Write judgements as `judge_claims` does."""
    records = [judgement.record() for judgement in judgements]
    write_table(claims_table(records), folder, "claims")
    write_json(Path(folder) / "claims.json", {"uses": params.recorded(), "claims": records})
    counts = {word: sum(record["verdict"] == word for record in records) for word in _VERDICTS}
    logger.info("tested %d claims: %s", len(records), ", ".join(f"{count} {word}" for word, count in counts.items()))


_VERDICTS = (SUPPORTED, CONTRADICTED, UNDECIDED, NOT_TESTABLE)


def format_claims(folder: str | Path, params: ClaimTestParams) -> str:
    """Verdicts for the terminal, as `judge_claims` wrote them into `folder`; a remark if those are of other claims."""
    path = Path(folder) / "claims.json"
    if not path.exists():
        return f"{path} is not there: run snakemake, which tests the claims"
    found = read_result(path)
    if found["uses"] != params.recorded():
        return f"{path} is of other claims than the study has: run snakemake, which tests them again"
    return to_text(compact_table(found["claims"]))


def compact_table(records: Sequence[Mapping[str, Any]]) -> Table:
    """Verdicts for the terminal."""
    rows: list[list[Value]] = [[record["verdict"], record["says"], _effect(record)] for record in records]
    return Table(
        title="Claims and what this study says of them",
        columns=["Verdict", "Claim", "Effect"],
        rows=rows,
        num_labels=2,
        formats=["+.1f"],
        intervals={2},
        notes=claim_notes(records),
    )


def claims_table(records: Sequence[Mapping[str, Any]]) -> Table:
    """One row per claim, with all that its verdict rests on."""
    rows: list[list[Value]] = [
        [
            record["verdict"],
            record["says"],
            _side(record),
            _effect(record),
            record["p"],
            record["p_adjusted"],
            record["detectable"],
            record["num_pairs"],
            record["num_expected_pairs"],
            record["num_questions"],
            record["num_clusters"],
        ]
        for record in records
    ]
    return Table(
        title="Claims and what this study says of them",
        columns=[
            "Verdict", "Claim", "Expected", "Effect", "p", "p (Holm)", "Detectable", "Pairs", "Pairs in grid",
            "Questions", "Clusters",
        ],
        rows=rows,
        num_labels=3,
        formats=["+.1f", ".4f", ".4f", ".1f", "d", "d", "d", "d"],
        intervals={3},
        notes=[
            *claim_notes(records),
            "Detectable: the smallest distance from the margin that this test would have found with a power of 80 %. "
            "Pairs: matched cells that have scores. Clusters: documents, or questions where they "
            "share no document. claims.json has the cells that each claim rests on, and those left out.",
        ],
    )  # fmt: skip


def _side(record: Mapping[str, Any]) -> str:
    return f"{record['direction']} {record['margin']:g}"


def _effect(record: Mapping[str, Any]) -> Measured | None:
    return None if record["effect"] is None else Measured(record["effect"], *record["interval"])


def claim_notes(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What must be known to read verdicts: below tables, and in the report."""
    tested = [record for record in records if record["effect"] is not None]
    notes = []
    if tested:
        notes.append(
            f"Supported or contradicted: the interval lies wholly on one side of the margin. The intervals of all "
            f"{len(tested)} tested claims together hold with {100 * LEVEL:g} % (Holm)."
        )
    if any(record["kind"] == "slope" for record in tested):
        notes.append("Effects of slopes are points per doubling of the number of parameters.")
    if alone := [record for record in tested if record["borrowed"] == 1]:
        which = "All" if len(alone) == len(tested) else ", ".join(record["name"] for record in alone) + ":"
        notes.append(
            f"{which} cells were trained with one seed: how much scores vary between trainings is not known, and "
            "neither intervals nor p count it."
        )
    if partly := [record for record in tested if 0 < record["borrowed"] < 1]:
        listed = ", ".join(f"{record['name']} {record['borrowed']:.0%}" for record in partly)
        notes.append(
            "Cells trained once take the variance between trainings of those trained several times; their share: "
            f"{listed}."
        )
    notes += [f"Not testable here: {record['says']} ({record['problem']})" for record in records if record["problem"]]
    return notes
