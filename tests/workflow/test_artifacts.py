"""Rules and the graph of artifacts say the same of every job: its stage, its log, and all that it reads."""

import re

import pytest

from retrotune.cli import merged_config
from retrotune.study.artifacts import Artifacts
from retrotune.study.paths import REPORT_STAGES

_JOB = re.compile(r"^(?:local)?rule (\w+):\n((?:    .*\n)+)", flags=re.MULTILINE)
CONTROLS = """
study: controls
retrievers:
  gold: {kind: gold}
  worse: {kind: degraded, base: minilm}
tokenizers:
  cutting: {corpora: [quizzes], vocab_size: 300}
chunkings:
  tokens: {passage_tokens: 16, tokenizer: cutting}
retrievals:
  gold2: {retriever: gold, corpus: pages, chunking: tokens, top_k: 2, gpt: {num_contexts: 2}}
  worse2: {retriever: worse, index: flat, corpus: pages, chunking: tokens, top_k: 2, gpt: {num_contexts: 2}}
grid:
  - {models: [gpt-tiny], methods: [zeroshot, lora], datasets: [nq], retrievals: [gold2, worse2]}
  - {models: [gpt-tiny], methods: [lora], datasets: [qmsum], retrievals: [worse2]}
"""


def planned(study) -> list[tuple[str, dict[str, list[str]]]]:
    """(rule, files by directive) of each job of a dry run."""
    done = study.run("--dry-run", "--nocolor", "--quiet", "host", "progress")
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = []
    for rule, lines in _JOB.findall(done.stdout + done.stderr):
        directives = (line.strip().partition(": ") for line in lines.splitlines())
        jobs.append((rule, {name: sorted(set(value.split(", "))) for name, _, value in directives}))
    return jobs


@pytest.mark.parametrize("name", ["smallest", "controls", "paper"])
def test_rules_and_the_graph_agree(workflow, repository, tmp_path, name):
    demo, files = repository / "config" / "config.yaml", {"paper": [repository / "config" / "paper.yaml"]}
    (tmp_path / "controls.yaml").write_text(CONTROLS)
    files |= {
        "smallest": [demo, repository / "tests/workflow/smallest.yaml"],
        "controls": [demo, tmp_path / "controls.yaml"],
    }
    study = workflow(tmp_path / "run", *files[name])
    artifacts = Artifacts(merged_config([str(file) for file in files[name]], []))
    made = {artifact.path: artifact for artifact in artifacts.all() if artifact.stage is not None}
    seen = set()
    for rule, job in planned(study):
        if rule in (*REPORT_STAGES, "all"):
            continue
        found = [made[path] for path in job["output"] if path in made]
        assert found, f"{rule} makes {job['output']}, which the graph does not have"
        for artifact in found:
            inputs = artifacts.inputs(rule, artifact.wildcards).values()
            needed = {path for need in inputs for path in ([need] if isinstance(need, str) else need)}
            assert artifact.stage == rule
            assert sorted(needed) == job.get("input", []), artifact
            assert [artifacts.log(artifact)] == job["log"]
            seen.add(artifact.path)
    assert seen == set(made)
