"""Golden outputs: whoever changes what a stage makes is reminded to raise its number in `study/stages/`.

Snakemake does not see changes inside the package, so finished studies would keep results of the old code.
"""

import gzip
import hashlib
import json

import pytest
from dataset_cases import SPLITS, WRITERS, prepare_split, split_paths, write_split
from tokenizer_cases import make

from retrotune.data.datasets import get_spec
from retrotune.data.datasets.base import Example, Passage
from retrotune.preparing.chunking import chunk_corpus, chunk_documents
from retrotune.preparing.world import write_world
from retrotune.prompting.examples import ExampleEncoder
from retrotune.retrieval.caches.questions import cache_neighbors
from retrotune.retrieval.caches.texts import cache_pretraining_neighbors, load_pretraining_neighbors
from retrotune.runtime.files import read_parquet, sha256_text, write_parquet
from retrotune.study.config import CorpusEntry, PassageLayout, RetrieverEntry, World
from retrotune.study.stages import (
    VERSIONS,
    CacheNeighborsParams,
    CacheTextNeighborsParams,
    ChunkCorpusParams,
    ChunkParams,
    TrainTokenizerParams,
    WriteWorldParams,
)
from retrotune.training.tokenizer import train_tokenizer

REMINDER = "the output of {} changed: raise its number in study/stages and put the new digest here"
GOLDEN = {
    ("write_world", 1): "b06068dc38d2688d2807e758e31c6fe50988735a57fbe466c2684f1c634b67bd",
    ("chunk_corpus", 2): "4b53f73ac024d6c82e6807dafec0678d2431dbbbb9dfca4ff3f156f2287e4742",
    ("chunk_documents", 2): "4b53f73ac024d6c82e6807dafec0678d2431dbbbb9dfca4ff3f156f2287e4742",
    ("prepare_train", 1): "cc62c18a65e2712493834de7b6813f4330ea9324f97b5c6d2eb661c7e493cefe",
    ("prepare_test", 1): "ab0ed14c59545648638387c24a1efdbe6a936488c3f0a7a5a71e45de911d3e28",
    ("train_tokenizer", 1): "8ed153a77c051e954ddff32f1e891e2bf97910f60067d8f393405a01b2e1f994",
    ("cache_neighbors", 1): "fd5bff19019757912827f15b497e273da2c16e7e3ea39c44b007d798e1e3726c",
    ("cache_pretraining_neighbors", 3): "064c8fccc81bcdf9a85dc5c1df5153a46b86180270503a65540de9b5341456f5",
    ("predict_cell", 5): "6578b643ae19724cb078534106a8c6dce6c3ce4364b3508e3305b59670242e14",
}


def check(stage, digest):
    assert GOLDEN.get((stage, VERSIONS[stage])) == digest, REMINDER.format(stage) + f": {digest}"


def test_world(tmp_path):
    """All raw files; `world.json` only records what made them."""
    world = World(pretraining_pages=20, train_documents=2, test_documents=2, questions_per_document=2)
    write_world(WriteWorldParams(world=world), tmp_path)
    digest = hashlib.sha256()
    for file in sorted(path for path in tmp_path.rglob("*") if path.is_file() and path.name != "world.json"):
        data = file.read_bytes()
        digest.update(str(file.relative_to(tmp_path)).encode())
        digest.update(gzip.decompress(data) if file.suffix == ".gz" else data)
    check("write_world", digest.hexdigest())


def test_passages(tmp_path):
    text = "Mr. Fox ran home. He slept. " * 9 + 'A "quoted" end, of 3.5 words?'
    write_parquet(tmp_path / "d.parquet", _frame({"doc_id": ["a"], "title": ["T"], "text": [text]}))
    chunk_documents(ChunkParams(passage_words=12), tmp_path / "d.parquet", tmp_path / "p.parquet")
    (tmp_path / "d.txt").write_text(text)
    corpus = CorpusEntry(reader="text", path="d.txt")
    chunk_corpus(ChunkCorpusParams(corpus=corpus, passage_words=12), tmp_path, tmp_path / "c.parquet")
    made, of_corpus = (read_parquet(tmp_path / f"{name}.parquet") for name in ("p", "c"))
    assert made["text"].tolist() == of_corpus["text"].tolist()
    for stage in ("chunk_documents", "chunk_corpus"):
        check(stage, sha256_text(made.to_json(orient="records")))


@pytest.mark.parametrize("split", SPLITS)
def test_examples(tmp_path, split):
    tables = []
    for reader, write in WRITERS.items():
        write(tmp_path / reader)
        prepare_split(tmp_path, reader, split, tmp_path / "out" / reader)
        tables += [_records(file) for file in split_paths(tmp_path / "out" / reader, split)]
    check(f"prepare_{split}", sha256_text("\n".join(tables)))


PAGES = "\n".join(
    f" = {name} = \n\n {name} lives near the old {place}. The {place} is where {name} keeps seven goats.\n"
    for name, place in (("Ann", "harbor"), ("Bob", "mill"), ("Eve", "tower"), ("Dan", "bridge"))
)


def _pages(tmp_path):
    (tmp_path / "pages.txt").write_text(PAGES)
    entry = CorpusEntry(reader="text", path="pages.txt", documents="wikitext")
    chunk_corpus(ChunkCorpusParams(corpus=entry, passage_words=8), tmp_path, tmp_path / "passages.parquet")
    return {"pages": entry}


def test_tokenizer(tmp_path):
    params = TrainTokenizerParams(corpora=_pages(tmp_path), vocab_size=300)
    train_tokenizer(params, tmp_path, tmp_path / "tokenizer.json")
    model = json.loads((tmp_path / "tokenizer.json").read_text())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].get)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    check("train_tokenizer", sha256_text("\n".join([*pieces, *merges])))


def test_neighbors(tmp_path):
    _pages(tmp_path)
    asked = [Example(name, f"Who keeps {name}?", ("x",)) for name in ("goats", "the mill", "nothing")]
    examples, out = write_split(tmp_path / "test.parquet", asked)[0], tmp_path / "neighbors.parquet"
    params = CacheNeighborsParams(retriever=RetrieverEntry(kind="bm25"), top_k=3, own_documents=False)
    cache_neighbors(params, examples, tmp_path / "passages.parquet", out)
    check("cache_neighbors", sha256_text(_records(out)))


def test_pretraining_neighbors(tmp_path):
    corpora, out = _pages(tmp_path), tmp_path / "neighbors.json"
    tokenizer, bm25 = tmp_path / "tokenizer.json", RetrieverEntry(kind="bm25")
    train_tokenizer(TrainTokenizerParams(corpora=corpora, vocab_size=300), tmp_path, tokenizer)
    params = CacheTextNeighborsParams(retriever=bm25, top_k=2, source="pages", corpora=corpora)
    cache_pretraining_neighbors(params, tmp_path, tmp_path / "passages.parquet", tokenizer, 16, out)
    found = load_pretraining_neighbors(out)
    records = [(key, p.passage_id, p.title, p.text, round(p.score, 3)) for key, ranked in found.items() for p in ranked]
    check("cache_pretraining_neighbors", sha256_text(json.dumps(records)))


READERS = ("nq", "triviaqa", "narrativeqa", "qasper", "quality", "qmsum")


def test_prompts():
    """What the encoder of training and prediction makes, as text: byte-level tokens hold every character."""
    tokenizer = make("gpt2")
    example = Example("q1", "who ran home", ("Mr. Fox",), "a", ("the cat", "the fox"))
    passages = [Passage("p1", "T", "Mr. Fox ran home.", 1.0)]

    def seen(name, variant, num_contexts):
        layout, template = PassageLayout(num_contexts=num_contexts), get_spec(name).prompt_of(variant)
        encoder = ExampleEncoder(tokenizer, template, layout, max_length=1024, max_new_tokens=32)
        learned, asked = (encoder.encode(example, passages, with_answer=answer) for answer in (True, False))
        assert learned.prompt_ids == asked.prompt_ids
        assert learned.answer_ids[-1] == tokenizer.eos_token_id
        return tokenizer.decode(learned.prompt_ids + learned.answer_ids[:-1])

    pairs = [(name, variant) for name in READERS for variant in ("base", "instruct")]
    prompts = [seen(*pair, 1) for pair in pairs]
    check("predict_cell", sha256_text("\n".join(prompts)))
    context = "title: T, source: Mr. Fox ran home.\n\n"
    assert all(prompt.count(context) == 1 for prompt in prompts)
    assert [seen(*pair, 0) for pair in pairs] == [prompt.replace(context, "") for prompt in prompts]
    for (name, variant), prompt in zip(pairs, prompts, strict=True):
        assert prompt == get_spec(name).prompt(example, passages, variant) + get_spec(name).target(example, variant)


def _records(file):
    """A table as text; scores to three digits, as the last ones depend on the machine."""
    return read_parquet(file).round(3).to_json(orient="records")


def _frame(columns):
    import pandas as pd

    return pd.DataFrame(columns)
