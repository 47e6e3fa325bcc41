"""The `retrotune` command: a study's plan, status, tables and prompts, checks of its neighbors, conversion, docs."""

import argparse
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retrotune.errors import ConfigError, RetrievalError, RetrotuneError
from retrotune.report.collect import Result, holds, read_cells, write_results
from retrotune.runtime.log import setup_logging
from retrotune.study.config import Config, Select, load_config, parse_yaml, read_yaml
from retrotune.study.paths import Paths


def merged_config(files: Sequence[str], settings: Sequence[str]) -> Config:
    """The configuration that Snakemake would use for `--configfile FILES --config SETTINGS`: later values win."""
    raw: dict[str, Any] = {}
    for file in files or ["config/config.yaml"]:
        _merge(raw, read_yaml(file))
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"--config {setting}: write KEY=VALUE")
        _merge(raw, {key: parse_yaml(value, f"--config {key}")})
    return load_config(raw)


def _merge(target: dict[str, Any], update: Mapping[str, Any]) -> None:
    for key, value in update.items():
        if isinstance(value, Mapping) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = dict(value) if isinstance(value, Mapping) else value


def show_tables(arguments: argparse.Namespace) -> None:
    """Print the comparison of a finished study from the workflow's own tables, else that of the cells done so far.

    The latter is written, with the other tables and figures, to a folder of its own, because Snakemake takes whatever
    lies in the workflow's folders for what the workflow made there. Missing cells are dashes.
    """
    from retrotune.report.tables import format_table

    config = merged_config(arguments.configfile, arguments.config)
    paths = Paths.of(config)
    results = read_cells(config)
    selected = config.select != Select()
    done = sum(result.status == "done" for result in results)
    finished = paths.report("tables/results.json")
    if not selected and done == len(results) and holds(finished, results):
        folder = paths.study
        print(format_table(finished))
    else:
        folder = paths.so_far()
        print(format_table(_report_so_far(paths, results)))
        cells = "selected cells" if selected else "cells"
        print(f"\n{done} of {len(results)} {cells} are done: these are the tables so far, snakemake makes the study's.")
    print(f"\ntables:  {folder}/tables/comparison.{{html,md,tex,csv}}, cost.html")
    print(f"figures: {folder}/figures/scaling.{{svg,pdf,png}}")
    print(f"cells:   {paths.report('cells')}/MODEL/METHOD/DATASET/RETRIEVAL/seedN/predictions.jsonl")


def show_status(arguments: argparse.Namespace) -> None:
    """Print which cells are done, run, wait or failed, the time that is left, and the log of each failure."""
    from retrotune.report.status import LETTERS, SYMBOLS, study_status

    config = merged_config(arguments.configfile, arguments.config)
    try:
        "".join(SYMBOLS.values()).encode(sys.stdout.encoding or "ascii")
        symbols = SYMBOLS
    except UnicodeEncodeError:
        symbols = LETTERS
    print(study_status(config, symbols))


def show_explanation(arguments: argparse.Namespace) -> None:
    """Print a cell's inputs, configuration, state, what would run and why, and the commands to run it alone."""
    from retrotune.report.explain import explain_cell

    config = merged_config(arguments.configfile, arguments.config)
    options = [item for key in ("configfile", "config") for item in _option(key, getattr(arguments, key))]
    print(explain_cell(config, arguments.cell, options))


def show_prompt(arguments: argparse.Namespace) -> None:
    """Print what a cell's model saw of one test question, and what it answered."""
    from retrotune.prediction.seen import as_text, what_was_seen
    from retrotune.report.explain import find_cell

    setup_logging(plain=True, level=logging.WARNING)
    config = merged_config(arguments.configfile, arguments.config)
    seen = what_was_seen(config, find_cell(config, arguments.cell), arguments.question)
    print(json.dumps({**vars(seen), "differs": seen.differs}, indent=2) if arguments.json else as_text(seen))


def _option(name: str, values: Sequence[str]) -> list[str]:
    return [f"--{name}", *values] if values else []


def _add_study(command: argparse.ArgumentParser) -> None:
    """Give a command the options that name a study."""
    command.add_argument("--configfile", nargs="+", default=[], metavar="FILE", help="as for snakemake")
    command.add_argument("--config", nargs="+", default=[], metavar="KEY=VALUE", help="as for snakemake")


def _report_so_far(paths: Paths, results: Sequence[Result]) -> str:
    """Write tables and figures of `results` into the folder of unfinished studies; the path of its results.json."""
    from retrotune.report.plots import plot_scaling
    from retrotune.report.tables import make_tables

    collected = paths.so_far("tables/results.json")
    write_results(paths.name, results, paths.so_far("tables/metrics.csv"), collected)
    make_tables(collected, paths.so_far("tables"))
    plot_scaling(collected, [paths.so_far(f"figures/scaling.{suffix}") for suffix in ("svg", "pdf", "png")])
    return collected


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


def write_docs(arguments: argparse.Namespace) -> None:
    """Generate `config/schema.json` and the key tables of `config/README.md`."""
    from retrotune.documentation import write_documentation

    for path in write_documentation(arguments.folder):
        print(path)


def verify_neighbors(arguments: argparse.Namespace) -> None:
    """Check the study's neighbor caches and search a sample of each again; a line per cache."""
    from retrotune.retrieval.caches.verify import study_caches, verify_cache

    if arguments.sample < 0 or arguments.seed < 0:
        raise ConfigError(f"--sample {arguments.sample} --seed {arguments.seed}: give numbers of 0 or more")
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
    explain = commands.add_parser("explain", help="show a cell's inputs, why it would run, and how to run it alone")
    explain.add_argument("cell", metavar="CELL", help="MODEL/METHOD/DATASET/RETRIEVAL/seedN")
    _add_study(explain)
    explain.set_defaults(run=show_explanation)
    seen = commands.add_parser("prompt", help="show what a cell's model saw of one test question, and its answer")
    seen.add_argument("cell", metavar="CELL", help="MODEL/METHOD/DATASET/RETRIEVAL/seedN, or a path in its folder")
    seen.add_argument("question", metavar="QUESTION", help="its id, or a part of its text that no other holds")
    _add_study(seen)
    seen.add_argument("--json", action="store_true", help="print JSON")
    seen.set_defaults(run=show_prompt)
    docs = commands.add_parser("docs", help="generate the configuration's schema and key tables")
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
    parsed = parser.parse_args(arguments)
    try:
        parsed.run(parsed)
    except RetrotuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
