"""A model folder outside of the workflow: absent, put there, overwritten in place, and with code of its own."""

import json
import os

import pytest
import torch
from study_runs import Workflow, letters_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

STUDY = """
study: outside
data_root: data
datasets:
  nq: {reader: nq, path: nq, max_new_tokens: 4}
retrievals:
  none: {top_k: 0}
models:
  own: {family: gpt, size: xs, path: model}
methods:
  zeroshot: {kind: zeroshot}
max_length: 128
evaluation: {batch_size: 2}
grid: {retrievals: [none]}
"""
METRICS = "results/outside/cells/own/zeroshot/nq/none/seed0/metrics.json"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def study(repository, tmp_path_factory):
    folder = tmp_path_factory.mktemp("outside")
    (folder / "study.yaml").write_text(STUDY)
    (folder / "data" / "nq").mkdir(parents=True)
    for name in ("train", "dev"):
        lines = [json.dumps({"question": f"who is {who} of {name}", "answer": [who]}) for who in ("Ann", "Bob")]
        (folder / "data" / "nq" / f"NQ-open.{name}.jsonl").write_text("\n".join(lines))
    return Workflow(repository, folder, folder / "study.yaml")


def write_model(folder, seed):
    tokenizer = letters_tokenizer()
    torch.manual_seed(seed)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def test_what_is_missing_is_a_warning_in_a_plan_and_ends_a_run_before_its_first_job(study):
    assert study.plan()["fetch_model"] == 1
    said = "models.own: model is not there yet: put a model folder in transformers layout there"
    planned = study.run("--dry-run", "--quiet", "rules")
    assert f"{said} before running its cells" in planned.stdout + planned.stderr
    done = study.run()
    assert done.returncode == 1
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not (study.folder / "resources" / "outside" / "datasets").exists()


def test_weights_overwritten_in_place_are_read_again(study):
    write_model(study.folder / "model", 0)
    done = study.run(METRICS)
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = study.folder / METRICS
    first = json.loads(metrics.read_text())["model"]["fingerprint"]
    write_model(study.folder / "model", 1)
    for file in (study.folder / "model").iterdir():
        os.utime(file, (1, 1))  # as a copy that keeps old times
    assert study.plan(METRICS) == {"fetch_model": 1, "predict_cell": 1, "score_cell": 1}
    done = study.run(METRICS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(metrics.read_text())["model"]["fingerprint"] != first
    assert study.plan(METRICS) == {}


def test_code_of_a_folder_is_refused_by_name_and_never_asked_about(study):
    config = study.folder / "model" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "auto_map": {"AutoConfig": "mine.Mine"}}))
    (study.folder / "model" / "mine.py").write_text("raise SystemExit('it ran')\n")
    done = study.run(typed="y\n" * 9)
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert "auto_map" in said
    assert "trust_remote_code" in said
    assert "it ran" not in said
