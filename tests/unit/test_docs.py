"""Documentation against the tree: files, links, anchors, YAML and diffs that it shows exist, are valid and apply."""

import re
import subprocess

import pytest
import yaml

from retrotune.documentation import SECTIONS, key_tables
from retrotune.study.config import Config, load_config
from retrotune.study.config.claim_files import check_claims

PAGES = ("README.md", "CONTRIBUTING.md", "config/README.md", "benchmarks/README.md", "docs/*.md")
TOP = "benchmarks|config|docs|envs|profiles|src|tests|workflow"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def pages(repository):
    return [page for pattern in PAGES for page in sorted(repository.glob(pattern))]


def blocks(repository, language):
    for page in pages(repository):
        yield from ((page, text) for kind, text in BLOCK.findall(page.read_text()) if kind == language)


def prose(page):
    return BLOCK.sub("", page.read_text())


def anchors(page):
    """Anchors of a page's headings, as GitHub makes them: a heading that occurs again gets a number."""
    found = []
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.append(f"{name}-{found.count(name)}" if name in found else name)
    return found


def test_files_that_pages_name_exist(repository):
    named = re.compile(rf"`((?:{TOP})/[\w./*{{}},-]+)(?::\d+)?`")
    missing = [
        f"{page.name}: {path}"
        for page in pages(repository)
        for path in named.findall(prose(page))
        if not re.search(r"[*{]|\bX\b", path) and not (repository / path).exists()
    ]
    assert not missing


def test_links_lead_somewhere(repository):
    broken = []
    for page in pages(repository):
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
            if re.match(r"https?:", target):
                continue
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            if not file.exists() or (anchor and anchor not in anchors(file)):
                broken.append(f"{page.name}: {target}")
    assert not broken


def test_shown_yaml_is_valid(repository):
    """Whole studies, and sections of one: their entries are checked beside the demo's; claims on their page."""
    demo = yaml.safe_load((repository / "config" / "config.yaml").read_text())
    shown = [(page, yaml.safe_load(text)) for page, text in blocks(repository, "yaml")]
    assert any("study" in raw for _, raw in shown)
    for page, raw in shown:
        if page.name == "claims.md":
            check_claims(raw)
            continue
        assert set(raw) <= set(Config.model_fields), page
        if "study" in raw:
            load_config(raw)
        else:
            load_config({**demo, **{name: {**demo.get(name, {}), **entries} for name, entries in raw.items()}})


def test_each_kind_of_entry_has_one_table():
    headings = re.findall(r"^(#+) (.+)$", key_tables(), re.MULTILINE)
    kinds = [name for name, part in Config.model_json_schema()["$defs"].items() if "properties" in part]
    tables = [title for level, title in headings if level == "###"]
    assert sorted(tables) == sorted(re.sub(r"Entry$", "", name) for name in kinds)
    assert [title for level, title in headings if level == "##"] == ["Top level", *SECTIONS, "The rest"]
    assert tables.index("Dataset") < tables.index("Retriever") < tables.index("Model") < tables.index("LoraMethod")


def test_shown_diffs_apply(repository):
    shown = [text for _, text in blocks(repository, "diff")]
    assert shown
    for text in shown:
        command = ["git", "apply", "--check", "--recount", "-"]
        done = subprocess.run(command, input=text, text=True, cwd=repository, capture_output=True, check=False)
        if "not a git" in done.stderr:
            pytest.skip("no git here")
        assert done.returncode == 0, f"docs/extend.md does not fit the code: {done.stderr}"
