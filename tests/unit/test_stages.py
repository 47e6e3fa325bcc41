"""Golden outputs: whoever changes what a stage makes is reminded to raise its number in `stages.py`.

Snakemake does not see changes inside the package, so finished studies would keep results of the old code.
"""

import gzip
import hashlib

from retrotune.config import World
from retrotune.corpus.chunking import chunk_documents
from retrotune.datasets import get_spec
from retrotune.datasets.base import Example, Passage
from retrotune.demo.world import write_world
from retrotune.files import read_parquet, sha256_text, write_parquet
from retrotune.stages import STAGE_VERSIONS

REMINDER = "the output of {} changed: raise its number in stages.py and put the new digest here"
GOLDEN = {
    ("write_world", 1): "e475699dfa2bf64f55102fda3792212f4e49e97fa1f96ddeb0ed3a632a03bc10",
    ("chunk_corpus", 1): "4b53f73ac024d6c82e6807dafec0678d2431dbbbb9dfca4ff3f156f2287e4742",
    ("predict_cell", 1): "6578b643ae19724cb078534106a8c6dce6c3ce4364b3508e3305b59670242e14",
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


def test_prompts():
    example = Example("q1", "who ran home", ("Mr. Fox",), "a", ("the cat", "the fox"))
    passages = [Passage("p1", "T", "Mr. Fox ran home.", 1.0)]
    prompts = [
        get_spec(name).prompt(example, passages, variant) + get_spec(name).target(example)
        for name in ("nq", "triviaqa", "narrativeqa", "qasper", "quality", "qmsum")
        for variant in ("base", "instruct")
    ]
    check("predict_cell", sha256_text("\n".join(prompts)))


def _frame(columns):
    import pandas as pd

    return pd.DataFrame(columns)
