"""The rule that converts a checkpoint, from a study's configuration to a model that loads."""

import json

import yaml
from study_runs import letters_tokenizer

from retrotune.models.loading import load_model

MANIFEST = "resources/conversion/models/released/manifest.json"


def study(repository, tmp_path, workflow, max_length):
    checkpoint = repository / "tests/parity/data/case6b_legacy_tp2/checkpoint"
    letters_tokenizer().save_pretrained(tmp_path / "letters")
    tokenizer = {"tokenizer": str(tmp_path / "letters" / "tokenizer.json"), "vocab_size": 260}
    source = {"path": str(checkpoint), "chunk_length": 8, **tokenizer}
    grid = {"models": ["released"], "methods": ["zeroshot"], "datasets": ["nq"], "retrievals": ["minilm2"]}
    models = {"released": {"family": "retro", "size": "tiny", "checkpoint": source}}
    file = tmp_path / "study.yaml"
    raw = {"study": "conversion", "models": models, "grid": [grid], "max_length": max_length}
    file.write_text(yaml.safe_dump(raw))
    return workflow(tmp_path / "work", repository / "config/config.yaml", file)


def test_a_checkpoint_of_a_study_is_converted(repository, tmp_path, workflow):
    snakemake = study(repository, tmp_path, workflow, 32)
    done = snakemake.run(MANIFEST)
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = json.loads((snakemake.folder / MANIFEST).read_text())
    assert manifest["source"]["layout"] == "megatron-legacy"
    config = load_model((snakemake.folder / MANIFEST).parent).config
    assert (config.vocab_size, config.chunk_length, config.cross_attention_layers) == (260, 8, [5])
    assert not snakemake.plan(MANIFEST), "nothing is left to do"


def test_a_failed_job_says_why_once_and_where_its_log_is(repository, tmp_path, workflow):
    done = study(repository, tmp_path, workflow, 64).run(MANIFEST)
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert said.count("error: ") == 1
    assert "takes 32 tokens at most, but max_length=64" in said
    assert "(log: logs/conversion/convert_model/released.log)" in said
