"""What a report of a large study costs: 300 cells of 2,000 questions each collected, claims tested, tables and figures
made, the page written.

The study has the shape of the paper's: 2 families, 5 sizes, 5 methods, 6 datasets. Its predictions are generated: how
often a cell is right rises with size and method. They are scored by the workflow's own stage, which is not timed. The
timed part runs in a process of its own, whose peak memory is measured. `--work FOLDER` keeps the generated study.
"""

import argparse
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from retrotune.data.datasets import Example
from retrotune.preparing.examples import write_examples, write_references
from retrotune.report.figures.making import draw_figures
from retrotune.report.gathering.answers import collect_answers
from retrotune.report.gathering.collect import collect_metrics
from retrotune.report.judging.claims import judge_claims
from retrotune.report.judging.diagnosing import diagnose_cells
from retrotune.report.page.writing import write_report
from retrotune.report.tables.making import make_tables
from retrotune.runtime.files import write_json, write_jsonl
from retrotune.scoring.resampling import Pairs, bootstrap_p, permutation_p
from retrotune.scoring.score import score_cell
from retrotune.scoring.statistics import Stratum
from retrotune.study.cells import Cell, expand_grid
from retrotune.study.config import Config, load_config
from retrotune.study.paths import Paths
from retrotune.study.resolve import resolve
from retrotune.study.stages import VERSIONS

SIZES = {"xs": 823, "s": 2254, "m": 8523, "l": 21266, "xxl": 42825}
METHODS = ("zeroshot", "ptuning", "adapter", "lora", "full")
DATASETS = ("nq", "triviaqa", "narrativeqa", "qasper", "quality", "qmsum")
OPTIONS = ("a red house", "a green tree", "a blue lake", "a white road")
WORDS = ["alder", "birch", "cedar", "dogwood", "elm", "fir", "ginkgo", "hazel", "ironwood", "juniper", "larch", "maple"]


def study(folder: Path) -> Config:
    models = {
        f"{family}-{size}": {"family": family, "size": size, "path": f"models/{family}-{size}"}
        for family in ("gpt", "retro")
        for size in SIZES
    }
    return load_config(
        {
            "study": "large",
            "results_dir": str(folder / "results"),
            "resources_dir": str(folder / "resources"),
            "data_root": str(folder / "raw"),
            "datasets": {name: {"reader": name, "path": name} for name in DATASETS},
            "corpora": {"wiki": {"reader": "dpr_passages", "path": "wiki.tsv"}},
            "chunkings": {"words": {"passage_words": 100}},
            "retrievers": {"bm25": {"kind": "bm25"}},
            "retrievals": {"five": {"retriever": "bm25", "corpus": "wiki", "chunking": "words", "top_k": 5}},
            "models": models,
            "methods": {name: {"kind": name} for name in METHODS},
            "grid": [{"retrievals": ["five"]}],
            "evaluation": {"retrieval_depth": 0},  # not timed here
        }
    )


def question(config: Config, dataset: str, number: int) -> Example:
    rng = random.Random(f"{dataset} {number}")
    words = " ".join(rng.choices(WORDS, k=9 if dataset == "qmsum" else 2))
    doc_id = None if config.is_open_domain(dataset) else f"document {number // 10}"
    if dataset == "quality":
        right = rng.choice(OPTIONS)
        return Example(f"{dataset}:{number}", "Which?", (right,), doc_id, OPTIONS)
    types = ("extractive",) if dataset == "qasper" else ()
    return Example(f"{dataset}:{number}", "What?", (words,), doc_id, types=types)


def generate(config: Config, questions: int) -> None:
    """Predictions of all cells, scored."""
    paths = Paths.of(config)
    asked = {name: [question(config, name, number) for number in range(questions)] for name in DATASETS}
    for name, examples in asked.items():
        write_references(paths.references(name, "test"), examples)
        write_examples(paths.examples(name, "test"), examples, with_answer=False)
        write_passages(Path(paths.neighbors("five", name, "test")), examples)
    for cell in expand_grid(config):
        write_cell(config, paths, cell, asked[cell.dataset])


def write_passages(path: Path, examples: list[Example]) -> None:
    """Five passages of 100 words for each question; one of two questions has its answer in one of them."""
    rng = random.Random(str(path.parent.name))
    rows = []
    for number, example in enumerate(examples):
        for rank in range(5):
            words = rng.choices(WORDS, k=100)
            if number % 2 and rank == number % 5:
                words[50] = example.answers[0]
            name = f"{example.question_id}.{rank}"
            rows.append((example.question_id, rank, name, " ".join(words[:2]), " ".join(words), 1.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = ["question_id", "rank", "passage_id", "title", "text", "score"]
    pd.DataFrame(rows, columns=columns).to_parquet(path)


def write_cell(config: Config, paths: Paths, cell: Cell, examples: list[Example]) -> None:
    size = config.models[cell.model].size
    rng = random.Random(cell.name)
    share = 0.1 + 0.1 * list(SIZES).index(size) + 0.08 * METHODS.index(cell.method)
    records = [
        {
            "question_id": example.question_id,
            "question": example.question,
            "prediction": (text := example.answers[0] if rng.random() < share else " ".join(rng.choices(WORDS, k=2))),
            "text": text,
            "context_ids": [f"{example.question_id}.{rank}" for rank in range(5)],
            "neighbor_ids": [],
            "prompt_hash": "0" * 64,
            "num_prompt_tokens": 700,
            "num_truncated_tokens": 0,
            "num_new_tokens": 4,
        }
        for example in examples
    ]
    files = {name: Path(paths.cell(cell, name)) for name in ("predictions.jsonl", "predict.json", "train.json")}
    write_jsonl(files["predictions.jsonl"], records)
    count = 1_000_000 * SIZES[size]
    model = {"num_parameters": count, "departures": [], "params": {"version": 1}, "fingerprint": cell.model}
    inputs = {"examples": 64 * "0", "model": None, "neighbors": None}
    costs = {"seconds": 60.0, "peak_memory_bytes": 2**30, "energy_joules": 6e3, "num_devices": 1, "inputs": inputs}
    tokens = {"prompt_tokens": 700 * len(examples), "generated_tokens": 4 * len(examples), "num_truncated_tokens": 0}
    predicted = {"num_questions": len(examples), "num_truncated_questions": 0, "retrieval_gate": None, "device": "cpu"}
    params = {"version": VERSIONS["predict_cell"]}
    write_json(files["predict.json"], {**predicted, **tokens, **costs, "model": model, "params": params})
    trained = config.methods[cell.method].trained
    if trained:
        learned = {"steps": 100, "tokens": 70_000, "final_loss": 1.0, "truncated": 0, "truncated_answers": 0}
        sizes = {"num_trainable_params": count // 300, "num_total_params": count, "adapter_bytes": count // 75}
        params = {"version": VERSIONS["finetune_cell"]}
        write_json(files["train.json"], {**learned, **sizes, **costs, "params": params})
    used = resolve(config, "score_cell", vars(cell))
    outputs = [paths.cell(cell, name) for name in ("scores.jsonl", "metrics.json")]
    references, train = paths.references(cell.dataset, "test"), files["train.json"] if trained else None
    score_cell(used, cell, files["predictions.jsonl"], files["predict.json"], references, train, *outputs)


def report(config: Config, with_page: bool) -> None:
    """The timed part: what the workflow does with scored cells, two stages at once as it does on two cores.

    Seconds of each are printed.
    """
    paths = Paths.of(config)
    folder = Path(paths.report(""))
    tables = folder / "tables"
    results, scores, answers = tables / "results.json", tables / "scores.parquet", tables / "answers.parquet"

    def used(stage: str) -> Any:
        return resolve(config, stage, {})

    def timed(*stages: Callable[[], object]) -> None:
        for run in stages:
            start = time.monotonic()
            run()
            print(f"{run.__name__}: {time.monotonic() - start:.1f} s", file=sys.stderr)

    def collected() -> None:
        collect_metrics(used("collect_metrics"), paths, tables / "metrics.csv", results, scores)

    def claims() -> None:
        judge_claims(used("test_claims"), results, scores, tables)

    def all_tables() -> None:
        make_tables(used("make_tables"), results, scores, tables)

    def all_answers() -> None:
        collect_answers(used("collect_answers"), paths, results, answers)

    def diagnosis() -> None:
        diagnose_cells(used("diagnose_cells"), paths, results, scores, answers, tables)

    def figures() -> None:
        draw_figures(used("draw_figures"), paths, results, scores, tables / "diagnosis.json", folder / "figures")

    def page() -> None:
        write_report(used("write_report"), paths, folder, folder / "report.html")

    timed(collected)
    beside = os.fork()
    if not beside:
        timed(claims, all_tables)
        os._exit(0)
    if with_page:
        timed(all_answers, diagnosis, figures)
    assert os.waitpid(beside, 0)[1] == 0
    if with_page:
        timed(page)


def two_arms() -> Stratum:
    """Two cells that answer the same 5,000 questions."""
    right_CQ1 = np.random.default_rng(0).random((2, 5000, 1)) < np.array([0.5, 0.52])[:, None, None]
    return Stratum.of(100.0 * right_CQ1, range(5000))


def permutation() -> float:
    """Seconds of 10,000 resamples of a paired test on 5,000 questions."""
    stratum, pairs = two_arms(), Pairs(np.array([0]), np.array([1]), np.array([1.0]))
    start = time.monotonic()
    permutation_p([stratum], [pairs], 10_000)
    return time.monotonic() - start


def bootstrap() -> float:
    """The same of the bootstrap, which draws questions again."""
    stratum, start = two_arms(), time.monotonic()
    bootstrap_p([stratum], [np.array([[1.0, -1.0]])], 0.0, 10_000)
    return time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--without-page", action="store_true", help="no figures, answers and page")
    parser.add_argument("--questions", type=int, default=2000, metavar="N", help="questions per dataset")
    parser.add_argument("--work", metavar="FOLDER", help="keep the study there; default: a temporary folder")
    parser.add_argument("--timed", metavar="FOLDER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.timed:
        report(study(Path(arguments.timed)), not arguments.without_page)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.work or temporary)
        config = study(folder)
        if not Path(Paths.of(config).report("cells")).exists():
            start = time.monotonic()
            generate(config, arguments.questions)
            print(f"generated and scored in {time.monotonic() - start:.0f} s, not counted", file=sys.stderr)
        start = time.monotonic()
        page = ["--without-page"] if arguments.without_page else []
        subprocess.run([sys.executable, __file__, "--timed", str(folder), *page], check=True)
        seconds = time.monotonic() - start
    print(f"VALUE permutation_10000_of_5000_questions_seconds {permutation():.2f}")
    print(f"VALUE bootstrap_10000_of_5000_questions_seconds {bootstrap():.2f}")
    cells = len(expand_grid(config))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"VALUE report_{cells}_cells_seconds {seconds:.1f}")
    print(f"VALUE report_{cells}_cells_peak_gib {peak:.2f}")


if __name__ == "__main__":
    main()
