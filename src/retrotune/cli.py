"""The `retrotune` command: a study's plan, status, tables, diagnosis, prompts; scores, neighbors, conversion, docs."""

import argparse
import json
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retrotune.entries import LARGEST_SEED
from retrotune.errors import ConfigError, RetrievalError, RetrotuneError
from retrotune.report.gathering.collect import read_cells
from retrotune.runtime.log import setup_logging
from retrotune.study.config import Config, Select, check_settings, load_config, read_yaml
from retrotune.study.paths import Paths
from retrotune.study.resolve import claim_testing, making_tables

STUDY_OPTIONS = (("--configfile", "--configfiles"), ("--config", "-C"))
"""Snakemake's names of the options that say which study is meant."""
NAMES = {
    "compare": (2, ""),
    "explain": (1, ""),
    "prompt": (2, ""),
    "verify-neighbors": (sys.maxsize, r"\.parquet$|\bneighbors-\d+\.json$"),
}
"""Commands that take names beside a study: how many at most, and what each of them matches."""


def merged_config(files: Sequence[str], settings: Sequence[str]) -> Config:
    """The configuration that Snakemake makes of `--configfile FILES --config SETTINGS`, by its own functions."""
    from snakemake.common.configfile import load_configfile
    from snakemake.exceptions import WorkflowError
    from snakemake.utils import update_config

    raw: dict[str, Any] = {}
    for file in files or ["config/config.yaml"]:
        read_yaml(file)  # for its errors: Snakemake takes the last of two values without a word
        try:
            update_config(raw, load_configfile(file))
        except WorkflowError as error:
            raise ConfigError(f"{file}: {error}") from error
    update_config(raw, _parsed(settings) if settings else {})
    return load_config(raw)


def _parsed(settings: Sequence[str]) -> dict[str, Any]:
    """The values of `--config`; `ConfigError` names a setting that is none, or that says something twice."""
    from snakemake.cli import parse_config  # half a second

    for setting in settings:
        try:
            parse_config([setting])
        except (ValueError, AssertionError) as error:
            raise ConfigError(
                f"--config {setting}: write KEY=VALUE with a key of the study; for a key below it KEY={{BELOW: VALUE}}"
            ) from error
    check_settings(settings)
    parsed: dict[str, Any] = parse_config(settings)
    return parsed


def show_tables(arguments: argparse.Namespace) -> None:
    """Print the comparison of a finished study from the workflow's own tables, else that of the cells done so far.

    The latter is written, with the other tables and figures, to a folder of its own, because Snakemake takes whatever
    lies in the workflow's folders for what the workflow made there. Missing cells are dashes.
    """
    from retrotune.report.judging.claims import format_claims
    from retrotune.report.so_far import COLLECTED, REPORT, is_reported, report_so_far
    from retrotune.report.tables.making import format_table

    config = merged_config(arguments.configfile, arguments.config)
    paths = Paths.of(config)
    results = read_cells(config)
    params = making_tables(config)
    if is_reported(config, results):
        folder = paths.study
        print(format_table(params, *map(paths.report, COLLECTED)))
    else:
        folder = paths.so_far()
        problems = report_so_far(config, results)
        print(format_table(params, *map(paths.so_far, COLLECTED)))
        done = sum(result.status == "done" for result in results)
        cells = "cells" if config.select == Select() else "selected cells"
        print(f"\n{done} of {len(results)} {cells} are done: these are the tables so far, snakemake makes the study's.")
        for problem in problems:
            print(problem)
    if config.claims:
        print(f"\n{format_claims(f'{folder}/tables', claim_testing(config))}")
    report = f"{folder}/{REPORT}"
    print(f"\nreport:  {report if Path(report).exists() else 'not written'}")
    print(f"tables:  {folder}/tables/comparison.{{html,md,tex,csv,parquet}}, claims.html, cost.html")
    print(f"figures: {folder}/figures/scaling.{{svg,pdf,png}}")
    print(f"cells:   {paths.report('cells')}/MODEL/METHOD/DATASET/RETRIEVAL/seedN/predictions.jsonl")


def show_status(arguments: argparse.Namespace) -> None:
    """Print which cells are done, run, wait or failed, the time that is left, and the log of each failure."""
    from retrotune.report.standing.status import LETTERS, SYMBOLS, study_status

    config = merged_config(arguments.configfile, arguments.config)
    try:
        "".join(SYMBOLS.values()).encode(sys.stdout.encoding or "ascii")
        symbols = SYMBOLS
    except UnicodeEncodeError:
        symbols = LETTERS
    print(study_status(config, symbols))


def show_diagnosis(arguments: argparse.Namespace) -> None:
    """Print known patterns of trouble in the cells that are done, the most serious first."""
    from retrotune.report.judging.diagnosing import as_text
    from retrotune.report.so_far import diagnosis_of

    diagnosis = diagnosis_of(merged_config(arguments.configfile, arguments.config))
    print(json.dumps(diagnosis, indent=2, ensure_ascii=False) if arguments.json else as_text(diagnosis))


def show_explanation(arguments: argparse.Namespace) -> None:
    """Print a cell's inputs, state, numbers, what would run and why, and the commands to run it alone."""
    from retrotune.report.standing.explain import explain_cell

    config = merged_config(arguments.configfile, arguments.config)
    options = [item for key in ("configfile", "config") for item in _option(key, getattr(arguments, key))]
    print(explain_cell(config, arguments.cell, options))


def show_comparison(arguments: argparse.Namespace) -> None:
    """Print how two arms differ on the same questions, and the questions that changed most."""
    from dataclasses import asdict

    from retrotune.report.judging.comparison import as_text, compare

    config = merged_config(arguments.configfile, arguments.config)
    compared = compare(
        config, read_cells(config), arguments.first, arguments.second, arguments.common, arguments.questions
    )
    print(json.dumps(asdict(compared), indent=2, ensure_ascii=False) if arguments.json else as_text(compared))


def show_prompt(arguments: argparse.Namespace) -> None:
    """Print what a cell's model saw of one test question, and what it answered."""
    from retrotune.prediction.seen import as_text, what_was_seen
    from retrotune.study.paths import find_cell

    setup_logging(plain=True, level=logging.WARNING)
    config = merged_config(arguments.configfile, arguments.config)
    seen = what_was_seen(config, find_cell(config, arguments.cell), arguments.question)
    print(json.dumps({**vars(seen), "differs": seen.differs}, indent=2) if arguments.json else as_text(seen))


class _Once(argparse.Action):
    """Stores an option's values; refuses it where it is given again, as Snakemake would forget the first ones."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if getattr(namespace, self.dest):
            parser.error(
                f"{option_string} is given twice, of which Snakemake reads the last: write all values after one"
            )
        setattr(namespace, self.dest, values)


def _study_last(words: Sequence[str]) -> list[str]:
    """A command line with the options that name a study behind all else: they would take a command's names for values.

    After `--config` what is no setting is a name. After `--configfile` the last words are names, as many as the command
    needs beside those that stand elsewhere.
    """
    if not words or words[0] not in NAMES or "--" in words:
        return list(words)
    runs = [[words[0]]]
    for word in words[1:]:
        if word.startswith("-"):
            runs.append([])
        runs[-1].append(word)
    files, settings = STUDY_OPTIONS
    values = [
        len(run) - 1
        if run[0] in files
        else sum(bool(re.match(r"\S+=", word)) for word in run)
        if run[0] in settings
        else 0
        for run in runs
    ]
    wanted, pattern = NAMES[words[0]]
    wanted -= sum(len(run) - 1 - number for run, number in zip(runs, values, strict=True))
    line: list[str] = []
    study: list[str] = []
    for run, number in zip(reversed(runs), reversed(values), strict=True):
        end = 1 + number
        while run[0] in files and end > 2 and wanted > 0 and re.search(pattern, run[end - 1]):
            end, wanted = end - 1, wanted - 1
        if run[0] in (*files, *settings):
            study, line = run[:end] + study, run[end:] + line
        else:
            line = run + line
    return line + study


def _option(name: str, values: Sequence[str]) -> list[str]:
    return [f"--{name}", *values] if values else []


def _add_study(command: argparse.ArgumentParser) -> None:
    """Give a command the options that name a study."""
    file, setting = STUDY_OPTIONS
    command.add_argument(*file, nargs="+", action=_Once, default=[], metavar="FILE", help="as for snakemake")
    command.add_argument(*setting, nargs="*", action=_Once, default=[], metavar="KEY=VALUE", help="as for snakemake")


def plan(arguments: argparse.Namespace) -> None:
    """Print what a study's retrieval will cost, and what Wikipedia's and a pretraining database's would."""
    from retrotune.plan.collections import PRETRAINING, WIKIPEDIA, study_collections
    from retrotune.plan.estimate import as_json, as_table, plan_rows
    from retrotune.plan.rates import given_rates, measured_rates, reference_rates

    given = given_rates(arguments.rate)
    config = merged_config(arguments.configfile, arguments.config)
    published = [] if arguments.study_only else [WIKIPEDIA, PRETRAINING]
    planned, notes = study_collections(config, arguments.passages)
    collections = [*planned, *published]
    rates = {**reference_rates(), **(measured_rates() if arguments.measure else {}), **given}
    rows = plan_rows(collections, rates)
    if arguments.json:
        print(json.dumps({**as_json(rows, rates), "notes": notes}, indent=2))
    else:
        print("".join(f"{note}\n" for note in notes))
        print(as_table(rows, rates, {collection.name: collection.counted for collection in collections}))


def show_scores(arguments: argparse.Namespace) -> None:
    """Print the scores of a file of predictions as JSON, with 95 % intervals."""
    from retrotune.scoring.file import score_file

    print(json.dumps(score_file(arguments.file, arguments.metric), indent=2))


def write_docs(arguments: argparse.Namespace) -> None:
    """Generate `config/schema.json` and the tables of `config/README.md`, `docs/datasets.md` and `docs/files.md`."""
    from retrotune.documentation import write_documentation

    for path in write_documentation(arguments.folder):
        print(path)


def verify_neighbors(arguments: argparse.Namespace) -> None:
    """Check the study's neighbor caches and search a sample of each again; a line per cache."""
    from retrotune.retrieval.caches.verify import study_caches, verify_cache

    if arguments.sample < 0 or not 0 <= arguments.seed <= LARGEST_SEED:
        raise ConfigError(
            f"--sample {arguments.sample} --seed {arguments.seed}: give numbers of 0 or more, a seed of {LARGEST_SEED} "
            "at most"
        )
    setup_logging(plain=True, level=logging.WARNING)
    config = merged_config(arguments.configfile, arguments.config)
    caches = study_caches(config)
    for name in arguments.cache:
        if not any(Path(name).resolve() == Path(path).resolve() for path in caches):
            raise ConfigError(
                f"{name}: no neighbor cache of study {config.study}; it has {', '.join(caches) or 'none'}"
            )
    wanted = {Path(name).resolve() for name in arguments.cache}
    chosen = {path: entry for path, entry in caches.items() if not wanted or Path(path).resolve() in wanted}
    if not chosen:
        raise RetrievalError(f"study {config.study} has no neighbor cache yet: run snakemake neighbors")
    wrong = 0
    for path, entry in chosen.items():
        try:
            done = verify_cache(path, config, entry, arguments.sample, arguments.seed)
        except RetrotuneError as error:
            wrong += 1
            print(f"error: {error}", file=sys.stderr)
            continue
        print(
            f"{path}: {done['blocks']} blocks of {done['texts']} texts whole, {done['sampled']} searched again: equal"
        )
    if wrong:
        raise RetrievalError(f"{wrong} of {len(chosen)} neighbor caches are not what the study says")


def convert(arguments: argparse.Namespace) -> None:
    """Convert a checkpoint into a model folder."""
    from retrotune.models.convert import convert_checkpoint

    setup_logging(plain=True)
    options = {key: getattr(arguments, key) for key in ("chunk_length", "vocab_size", "tokenizer")}
    convert_checkpoint(arguments.source, arguments.out, **options)


def _positive(text: str) -> int:
    number = int(text.replace(",", "").replace("_", ""))
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of passages: write 1 or more")
    return number


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is no number of questions: write 0 or more")
    return number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status. Errors that a user can mend print without a traceback."""
    parser = argparse.ArgumentParser(prog="retrotune", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    tables = commands.add_parser("tables", help="print a finished study's table, or make tables of what is done")
    _add_study(tables)
    tables.set_defaults(run=show_tables)
    planned = commands.add_parser("plan", help="estimate disk, memory and time of a study's retrieval")
    _add_study(planned)
    planned.add_argument("--passages", type=_positive, metavar="N", help="passages of each corpus not yet cut")
    planned.add_argument("--measure", action="store_true", help="measure this machine's rates first (some 10 s)")
    planned.add_argument("--rate", action="append", default=[], metavar="NAME=VALUE", help="a rate known otherwise")
    planned.add_argument("--study-only", action="store_true", help="leave out the two published sizes")
    planned.add_argument("--json", action="store_true", help="print JSON")
    planned.set_defaults(run=plan)
    status = commands.add_parser("status", help="show done, running, queued, failed and missing cells")
    _add_study(status)
    status.set_defaults(run=show_status)
    diagnosed = commands.add_parser("diagnose", help="name known patterns of trouble in what is done, with evidence")
    _add_study(diagnosed)
    diagnosed.add_argument("--json", action="store_true", help="print JSON")
    diagnosed.set_defaults(run=show_diagnosis)
    explain = commands.add_parser(
        "explain", help="show where a cell's numbers come from, why it would run, and how to run it alone"
    )
    explain.add_argument("cell", metavar="CELL", help="MODEL/METHOD/DATASET/RETRIEVAL/seedN")
    _add_study(explain)
    explain.set_defaults(run=show_explanation)
    compared = commands.add_parser("compare", help="say how two cells or selections differ on the same questions")
    compared.add_argument("first", metavar="A", help="a cell, or ATTRIBUTE=VALUE,... such as model=retro-s,method=lora")
    compared.add_argument("second", metavar="B", help="what A is compared with")
    _add_study(compared)
    compared.add_argument(
        "--questions", type=_count, default=5, metavar="N", help="changed questions shown per dataset"
    )
    compared.add_argument("--common", action="store_true", help="compare on common questions where sets differ")
    compared.add_argument("--json", action="store_true", help="print JSON")
    compared.set_defaults(run=show_comparison)
    seen = commands.add_parser("prompt", help="show what a cell's model saw of one test question, and its answer")
    seen.add_argument("cell", metavar="CELL", help="MODEL/METHOD/DATASET/RETRIEVAL/seedN, or a path in its folder")
    seen.add_argument("question", metavar="QUESTION", help="its id, or a part of its text that no other holds")
    _add_study(seen)
    seen.add_argument("--json", action="store_true", help="print JSON")
    seen.set_defaults(run=show_prompt)
    score = commands.add_parser("score", help="score a file of predictions by a metric, or as a dataset is scored")
    score.add_argument("file", metavar="FILE.jsonl", help="a record with prediction and answers on each line")
    score.add_argument(
        "--metric", required=True, metavar="NAME", help="em, f1, accuracy, contains, rouge, another, or a dataset"
    )
    score.set_defaults(run=show_scores)
    docs = commands.add_parser(
        "docs", help="generate the configuration's schema, and tables of keys, datasets and files"
    )
    docs.add_argument("folder", nargs="?", default="config")
    docs.set_defaults(run=write_docs)
    verification = commands.add_parser("verify-neighbors", help="check neighbor caches, search a sample of them again")
    verification.add_argument("cache", nargs="*", metavar="CACHE", help="cache files; default: all that the study has")
    _add_study(verification)
    verification.add_argument("--sample", type=int, default=100, metavar="N", help="texts per cache to search again")
    verification.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the sample")
    verification.set_defaults(run=verify_neighbors)
    conversion = commands.add_parser("convert", help="convert a checkpoint into a folder that transformers loads")
    conversion.add_argument("source", metavar="SOURCE", help="Megatron or transformers folder, or .gguf file")
    conversion.add_argument("out", metavar="OUT", help="new folder")
    conversion.add_argument("--chunk-length", type=int, metavar="N", help="tokens per chunk, if SOURCE does not say")
    conversion.add_argument(
        "--vocab-size", type=int, metavar="N", help="pieces without padding, if SOURCE does not say"
    )
    conversion.add_argument("--tokenizer", metavar="PATH", help="tokenizer file or folder, if SOURCE has none")
    conversion.set_defaults(run=convert)
    parsed = parser.parse_args(_study_last(sys.argv[1:] if arguments is None else arguments))
    try:
        parsed.run(parsed)
    except RetrotuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
