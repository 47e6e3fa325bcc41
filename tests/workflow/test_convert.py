"""The rule that converts a checkpoint, from a study's configuration to a model that loads."""

import json

import yaml

from retrotune.models.loading import load_model

MANIFEST = "resources/conversion/models/released/manifest.json"


def test_a_checkpoint_of_a_study_is_converted(repository, tmp_path, workflow):
    checkpoint = repository / "tests/parity/data/case6b_legacy_tp2/checkpoint"
    source = {"path": str(checkpoint), "chunk_length": 8, "vocab_size": 260}
    grid = {"models": ["released"], "methods": ["zeroshot"], "datasets": ["nq"], "retrievals": ["minilm2"]}
    models = {"released": {"family": "retro", "size": "tiny", "checkpoint": source}}
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump({"study": "conversion", "models": models, "grid": [grid]}))
    snakemake = workflow(tmp_path / "work", repository / "config/config.yaml", file)
    done = snakemake.run(MANIFEST)
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = json.loads((snakemake.folder / MANIFEST).read_text())
    assert manifest["source"]["layout"] == "megatron-legacy"
    config = load_model((snakemake.folder / MANIFEST).parent).config
    assert (config.vocab_size, config.chunk_length, config.cross_attention_layers) == (260, 8, [5])
    assert not snakemake.plan(MANIFEST), "nothing is left to do"
