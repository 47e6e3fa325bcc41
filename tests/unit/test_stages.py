"""Golden outputs: whoever changes what a stage makes is reminded to raise its number in `stages.py`.

Snakemake does not see changes inside the package, so finished studies would keep results of the old code.
"""

import gzip
import hashlib
import json

from dataset_cases import WRITERS

from retrotune.config import CorpusEntry, DatasetEntry, RetrieverEntry, World
from retrotune.corpus.chunking import chunk_corpus, chunk_documents
from retrotune.datasets import get_spec
from retrotune.datasets.base import Example, Passage
from retrotune.datasets.prepare import prepare_examples, write_examples
from retrotune.demo.world import write_world
from retrotune.files import read_parquet, sha256_text, write_parquet
from retrotune.retrieval.neighbors import cache_neighbors
from retrotune.retrieval.pretraining import cache_pretraining_neighbors, load_pretraining_neighbors
from retrotune.stages import STAGE_VERSIONS
from retrotune.training.tokenizer import train_tokenizer

REMINDER = "the output of {} changed: raise its number in stages.py and put the new digest here"
GOLDEN = {
    ("write_world", 1): "e475699dfa2bf64f55102fda3792212f4e49e97fa1f96ddeb0ed3a632a03bc10",
    ("chunk_corpus", 1): "4b53f73ac024d6c82e6807dafec0678d2431dbbbb9dfca4ff3f156f2287e4742",
    ("prepare_examples", 3): "352207749c6337f0f55ba682b66e6e5b4de81100e6acd6756477c8fdaddb3adf",
    ("train_tokenizer", 1): "8ed153a77c051e954ddff32f1e891e2bf97910f60067d8f393405a01b2e1f994",
    ("cache_neighbors", 1): "fd5bff19019757912827f15b497e273da2c16e7e3ea39c44b007d798e1e3726c",
    ("cache_pretraining_neighbors", 2): "064c8fccc81bcdf9a85dc5c1df5153a46b86180270503a65540de9b5341456f5",
    ("predict_cell", 4): "6578b643ae19724cb078534106a8c6dce6c3ce4364b3508e3305b59670242e14",
}


def check(stage, digest):
    assert GOLDEN.get((stage, STAGE_VERSIONS[stage])) == digest, REMINDER.format(stage) + f": {digest}"


def test_world(tmp_path):
    write_world(tmp_path, World(pretraining_pages=20, train_documents=2, test_documents=2, questions_per_document=2))
    digest = hashlib.sha256()
    for file in sorted(path for path in tmp_path.rglob("*") if path.is_file()):
        data = file.read_bytes()
        digest.update(str(file.relative_to(tmp_path)).encode())
        digest.update(gzip.decompress(data) if file.suffix == ".gz" else data)
    check("write_world", digest.hexdigest())


def test_passages(tmp_path):
    text = "Mr. Fox ran home. He slept. " * 9 + 'A "quoted" end, of 3.5 words?'
    write_parquet(tmp_path / "d.parquet", _frame({"doc_id": ["a"], "title": ["T"], "text": [text]}))
    chunk_documents(tmp_path / "d.parquet", 12, tmp_path / "p.parquet")
    check("chunk_corpus", sha256_text(read_parquet(tmp_path / "p.parquet").to_json(orient="records")))


def test_examples(tmp_path):
    tables = []
    for reader, write in WRITERS.items():
        write(tmp_path / reader)
        files = [tmp_path / f"{reader}-{name}.parquet" for name in ("train", "test", "documents")]
        entry, documents = DatasetEntry(reader=reader, path=reader), not get_spec(reader).open_domain
        prepare_examples(entry, tmp_path, files[0], files[1], files[2] if documents else None)
        tables += [_records(file) for file in files[: 2 + documents]]
    check("prepare_examples", sha256_text("\n".join(tables)))


PAGES = "\n".join(
    f" = {name} = \n\n {name} lives near the old {place}. The {place} is where {name} keeps seven goats.\n"
    for name, place in (("Ann", "harbor"), ("Bob", "mill"), ("Eve", "tower"), ("Dan", "bridge"))
)


def _pages(tmp_path):
    (tmp_path / "pages.txt").write_text(PAGES)
    entry = CorpusEntry(reader="text", path="pages.txt", documents="wikitext")
    chunk_corpus(entry, tmp_path, 8, tmp_path / "passages.parquet")
    return {"pages": entry}


def test_tokenizer(tmp_path):
    train_tokenizer(_pages(tmp_path), tmp_path, 300, tmp_path / "tokenizer.json")
    model = json.loads((tmp_path / "tokenizer.json").read_text())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].get)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    check("train_tokenizer", sha256_text("\n".join([*pieces, *merges])))


def test_neighbors(tmp_path):
    _pages(tmp_path)
    examples, out = tmp_path / "test.parquet", tmp_path / "neighbors.parquet"
    write_examples(examples, [Example(name, f"Who keeps {name}?", ("x",)) for name in ("goats", "the mill", "nothing")])
    cache_neighbors(examples, tmp_path / "passages.parquet", RetrieverEntry(kind="bm25"), 3, False, out)
    check("cache_neighbors", sha256_text(_records(out)))


def test_pretraining_neighbors(tmp_path):
    corpora, out = _pages(tmp_path), tmp_path / "neighbors.json"
    train_tokenizer(corpora, tmp_path, 300, tmp_path / "tokenizer.json")
    cache_pretraining_neighbors(
        corpora, tmp_path, tmp_path / "passages.parquet", "pages", tmp_path / "tokenizer.json", 16,
        RetrieverEntry(kind="bm25"), 2, out,
    )  # fmt: skip
    found = load_pretraining_neighbors(out)
    records = [(key, p.passage_id, p.title, p.text, round(p.score, 3)) for key, ranked in found.items() for p in ranked]
    check("cache_pretraining_neighbors", sha256_text(json.dumps(records)))


def test_prompts():
    example = Example("q1", "who ran home", ("Mr. Fox",), "a", ("the cat", "the fox"))
    passages = [Passage("p1", "T", "Mr. Fox ran home.", 1.0)]
    prompts = [
        get_spec(name).prompt(example, passages, variant) + get_spec(name).target(example)
        for name in ("nq", "triviaqa", "narrativeqa", "qasper", "quality", "qmsum")
        for variant in ("base", "instruct")
    ]
    check("predict_cell", sha256_text("\n".join(prompts)))


def _records(file):
    """A table as text; scores to three digits, as the last ones depend on the machine."""
    return read_parquet(file).round(3).to_json(orient="records")


def _frame(columns):
    import pandas as pd

    return pd.DataFrame(columns)
