"""What the report embeds: texts that cannot leave their element, blocks, numbers, and which questions it holds."""

import base64
import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest
from page_cases import EVIL, FOUR_BYTES, report_of, study, write_cells, write_data
from report_cases import result

from retrotune.errors import ResultError
from retrotune.report.gathering.collect import read_cells
from retrotune.report.page.embedding import blocks, datatables, json_element, page, program, style, vega
from retrotune.report.page.explorer import AT_CAP, CAP_KNOWN, COPIED, HELD_KNOWN, _numbers, explored
from retrotune.report.so_far import report_so_far
from retrotune.scoring.sheets import Sheet
from retrotune.study.cells import Cell
from retrotune.study.paths import Paths


def element_text(element: str) -> str:
    found = re.fullmatch(r"<script [^>]*>(.*)</script>\n", element, re.DOTALL)
    assert found is not None
    return found[1]


def test_no_text_can_end_its_element() -> None:
    element = json_element("x", {"text": [EVIL, FOUR_BYTES, "<!--<script>"]})
    assert "<" not in element_text(element)
    assert json.loads(element_text(element)) == {"text": [EVIL, FOUR_BYTES, "<!--<script>"]}
    assert "<script>document" not in "".join(page(EVIL, [], [], []))
    with pytest.raises(ResultError, match="end its own element"):
        program("const a = '</SCRIPT>'")
    with pytest.raises(ResultError, match="end its own element"):
        style("/* </style> */")


def test_blocks_hold_records_in_order() -> None:
    records = [[f"record {number} {FOUR_BYTES} {EVIL}"] for number in range(501)]
    elements = list(blocks("texts-0", records))
    assert [re.search('id="([^"]+)"', element)[1] for element in elements] == [f"texts-0-{n}" for n in range(3)]
    found = [json.loads(gzip.decompress(base64.b64decode(element_text(element)))) for element in elements]
    assert [record for block in found for record in block] == records
    assert elements == list(blocks("texts-0", records)), "the same bytes again"


def test_the_programs_are_installed() -> None:
    """Of DataTables with what the tables use, and of Vega."""
    code, rules = datatables()
    assert "export{" in code
    assert "jQuery" in code
    assert "colvis" in code
    assert "csvHtml5" in code
    assert "dt-button" in rules
    assert "vegaEmbed" in vega()


def sheet(cells: list[Cell], scores_CQ: list[list[float]]) -> Sheet:
    ids = tuple(f"q{number}" for number in range(len(scores_CQ[0])))
    return Sheet(cells[0].dataset, "exact_match", tuple(cells), ids, ids, np.array(scores_CQ)[:, :, None])


def test_the_explorer_holds_what_cells_disagree_on() -> None:
    results = [result("gpt-a", "zeroshot", "nq"), result("gpt-a", "lora", "nq"), result("gpt-b", status="missing")]
    scores = sheet([one.cell for one in results[:2]], [[0, 100, 50, 0], [0, 0, 100, 100]])
    (whole,), total = explored(results, {"nq": scores}, largest=8)
    assert (total, whole.question_ids) == (8, ["q0", "q1", "q2", "q3"])
    (part,), total = explored(results, {"nq": scores}, largest=6)
    assert (total, part.question_ids) == (8, ["q1", "q2", "q3"]), "in the order of the dataset"
    assert [one.name for one in part.results] == [one.name for one in results[:2]]


def test_small_datasets_leave_their_part_to_others() -> None:
    small, large = result("gpt-a", "zeroshot", "nq"), result("gpt-a", "zeroshot", "qmsum")
    sheets = {"nq": sheet([small.cell], [[0.0] * 2]), "qmsum": sheet([large.cell], [[0.0] * 10])}
    found, total = explored([small, large], sheets, largest=8)
    assert (total, [len(one.places) for one in found]) == (12, [2, 6])


def test_numbers_as_typed_arrays() -> None:
    rows = [
        ["q0", "said", None, [0], [], None, True, 0, None],
        ["q1", "said", None, [0], [], False, False, 70_000, True],
    ]
    found = _numbers(np.array([12.5, 100.0]), rows)
    assert np.frombuffer(found, "<f4", 2).tolist() == [12.5, 100.0]
    assert np.frombuffer(found, "<u4", 2, 8).tolist() == [0, 70_000]
    assert np.frombuffer(found, "u1", 2, 16).tolist() == [COPIED, HELD_KNOWN + CAP_KNOWN + AT_CAP]


def test_an_older_report_does_not_stand_for_one_that_cannot_be_written(tmp_path: Path) -> None:
    """Questions are gone: tables are made, the page is not, and what an earlier call wrote is not left there."""
    config = study(tmp_path)
    write_data(config)
    write_cells(config)
    report = report_of(config)
    assert report.exists()
    Path(Paths.of(config).examples("nq", "test")).unlink()
    problems = report_so_far(config, read_cells(config))
    assert [problem.partition(":")[0] for problem in problems] == ["the report is not written"]
    assert not report.exists()
    Path(Paths.of(config).neighbors("two", "quality", "test")).unlink()
    problems = report_so_far(config, read_cells(config))
    assert problems[0].startswith("the cells are not diagnosed: ")
    assert not (report.parent / "tables/diagnosis.json").exists()
    assert (report.parent / "tables/comparison.md").exists()
