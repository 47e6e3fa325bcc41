"""Answers of all cells beside what their passages hold, on passages made by hand."""

from pathlib import Path

import pandas as pd
import pytest
from record_cases import predict_record, prediction, train_record

from retrotune.data.datasets import Example
from retrotune.errors import ResultError
from retrotune.preparing.examples import write_references
from retrotune.report.gathering.answers import collect_answers, load_answers
from retrotune.report.gathering.collect import collect_metrics
from retrotune.runtime.files import write_json, write_jsonl
from retrotune.scoring.score import score_cell
from retrotune.study.cells import Cell
from retrotune.study.config import Config, load_config
from retrotune.study.paths import Paths
from retrotune.study.resolve import resolve

CELL = Cell("retro-a", "lora", "nq", "two", 0)
TEXTS = {"q1": ["It is TAMO's hill, nothing else", "Mira lives here"], "q2": ["none of it", "nor here"]}
ASKED = [Example("q1", "Who?", ("Tamo",)), Example("q2", "Who?", ("Mira",))]
SAID = [
    prediction("q1", "mira", text=" mira.", context_ids=["q1-0"], neighbor_ids=["q1-1"], num_new_tokens=16),
    prediction("q2", "Mira", text="Mira", context_ids=["q2-0"], num_truncated_tokens=7, num_new_tokens=3),
]


def study(folder: Path) -> Config:
    """One cell of RETRO, scored: a passage in the prompt, one in the encoder."""
    config = load_config(
        {
            "study": "made-up",
            "results_dir": str(folder / "results"),
            "resources_dir": str(folder / "resources"),
            "datasets": {"nq": {"reader": "nq", "path": "nq", "max_new_tokens": 16}},
            "corpora": {"wiki": {"reader": "dpr_passages", "path": "wiki.tsv"}},
            "chunkings": {"words": {"passage_words": 50}},
            "retrievers": {"some": {"kind": "bm25"}},
            "retrievals": {"two": {"retriever": "some", "corpus": "wiki", "chunking": "words", "top_k": 2}},
            "models": {"retro-a": {"family": "retro", "size": "a", "path": "models/a"}},
            "methods": {"lora": {"kind": "lora"}},
            "grid": [{"retrievals": ["two"]}],
        }
    )
    paths = Paths.of(config)
    write_references(paths.references("nq", "test"), ASKED)
    rows = [
        {"question_id": question, "rank": rank, "passage_id": f"{question}-{rank}", "title": "Tamo", "text": text}
        for question, texts in TEXTS.items()
        for rank, text in enumerate(texts)
    ]
    cache = Path(paths.neighbors("two", "nq", "test"))
    cache.parent.mkdir(parents=True)
    pd.DataFrame(rows).assign(score=1.0).to_parquet(cache)
    return config


def collected(config: Config, said: list[dict], folder: Path) -> list[dict]:
    paths = Paths.of(config)
    files = {name: Path(paths.cell(CELL, name)) for name in ("predictions.jsonl", "predict.json", "train.json")}
    write_jsonl(files["predictions.jsonl"], said)
    write_json(files["train.json"], train_record())
    write_json(files["predict.json"], predict_record())
    outputs = [paths.cell(CELL, name) for name in ("scores.jsonl", "metrics.json")]
    used = resolve(config, "score_cell", vars(CELL))
    references = paths.references("nq", "test")
    inputs = files["predictions.jsonl"], files["predict.json"], references, files["train.json"]
    score_cell(used, CELL, *inputs, *outputs)
    results, out = folder / "results.json", folder / "answers.parquet"
    collect_metrics(
        resolve(config, "collect_metrics", {}), paths, folder / "metrics.csv", results, folder / "scores.parquet"
    )
    collect_answers(resolve(config, "collect_answers", {}), paths, results, out)
    columns = ["question_id", "prediction", "text", "in_prompt", "in_encoder", "held", "copied", "cut", "at_cap"]
    found = load_answers(out, columns)
    assert list(found) == [CELL]
    return found[CELL].to_pylist()


def test_each_answer_stands_beside_what_its_passages_hold(tmp_path: Path) -> None:
    """The title holds an answer and does not count; the second passage of q2 was not given."""
    first, second = collected(study(tmp_path), SAID, tmp_path)
    assert (first["in_prompt"], first["in_encoder"]) == ([0], [1])
    assert (second["in_prompt"], second["in_encoder"]) == ([0], [])
    assert (first["held"], second["held"]) == (True, False)
    assert (first["copied"], second["copied"]) == (True, False)
    assert (first["text"], second["text"]) == (" mira.", None)
    assert (first["cut"], second["cut"]) == (0, 7)
    assert (first["at_cap"], second["at_cap"]) == (True, False)


def test_passages_that_the_cache_does_not_have_are_refused(tmp_path: Path) -> None:
    said = [{**SAID[0], "neighbor_ids": ["q9-9"]}, SAID[1]]
    with pytest.raises(ResultError, match=r"test\.parquet: question 'q1' has no passage 'q9-9'.*run snakemake"):
        collected(study(tmp_path), said, tmp_path)


def test_lengths_that_were_not_recorded_are_unknown(tmp_path: Path) -> None:
    said = [{name: value for name, value in line.items() if name != "num_new_tokens"} for line in SAID]
    assert [answer["at_cap"] for answer in collected(study(tmp_path), said, tmp_path)] == [None, None]


def test_a_cache_that_is_gone_is_named(tmp_path: Path) -> None:
    config = study(tmp_path)
    Path(Paths.of(config).neighbors("two", "nq", "test")).unlink()
    with pytest.raises(ResultError, match=r"test\.parquet: question 'q1' has no passage 'q1-0'"):
        collected(config, SAID, tmp_path)
