"""The `retrotune` command: tables of whatever is done, and the generated documentation."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retrotune.cells import Paths
from retrotune.config import Config, load_config, read_yaml
from retrotune.errors import ConfigError, RetrotuneError


def merged_config(files: Sequence[str], settings: Sequence[str]) -> Config:
    """The configuration that Snakemake would use for `--configfile FILES --config SETTINGS`: later values win."""
    import yaml

    raw: dict[str, Any] = {}
    for file in files or ["config/config.yaml"]:
        _merge(raw, read_yaml(file))
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"--config {setting}: write KEY=VALUE")
        _merge(raw, {key: yaml.safe_load(value)})
    return load_config(raw)


def _merge(target: dict[str, Any], update: Mapping[str, Any]) -> None:
    for key, value in update.items():
        if isinstance(value, Mapping) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = dict(value) if isinstance(value, Mapping) else value


def show_tables(arguments: argparse.Namespace) -> None:
    """Write tables and figures of all cells that are done and print the comparison; missing cells are dashes."""
    from retrotune.report.collect import collect_metrics
    from retrotune.report.plots import plot_scaling
    from retrotune.report.tables import format_table, make_tables

    config = merged_config(arguments.configfile, arguments.config)
    paths = Paths.of(config)
    results = paths.report("tables/results.json")
    collect_metrics(config, paths.report("tables/metrics.csv"), results)
    make_tables(results, Path(results).parent)
    plot_scaling(results, [paths.report(f"figures/scaling.{suffix}") for suffix in ("svg", "pdf", "png")])
    print(format_table(results))
    print(f"\ntables:  {Path(results).parent}/comparison.{{html,md,tex,csv}}, cost.html")
    print(f"figures: {paths.report('figures/scaling.{svg,pdf,png}')}")
    print(f"cells:   {paths.report('cells')}/MODEL/METHOD/DATASET/RETRIEVAL/seedN/predictions.jsonl")


def write_docs(arguments: argparse.Namespace) -> None:
    """Generate `config/schema.json` and the key tables of `config/README.md`."""
    from retrotune.documentation import write_documentation

    for path in write_documentation(arguments.folder):
        print(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status. Errors that a user can mend print without a traceback."""
    parser = argparse.ArgumentParser(prog="retrotune", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    tables = commands.add_parser("tables", help="print and write tables and figures of the cells that are done")
    tables.add_argument("--configfile", nargs="+", default=[], metavar="FILE", help="as for snakemake")
    tables.add_argument("--config", nargs="+", default=[], metavar="KEY=VALUE", help="as for snakemake")
    tables.set_defaults(run=show_tables)
    docs = commands.add_parser("docs", help="generate the configuration's schema and key tables")
    docs.add_argument("folder", nargs="?", default="config")
    docs.set_defaults(run=write_docs)
    parsed = parser.parse_args(arguments)
    try:
        parsed.run(parsed)
    except RetrotuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
