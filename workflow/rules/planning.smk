# Work that Snakemake does again for each of thousands of jobs, done once. Included last, as it looks at all rules. The
# processor seconds named are saved of the 22.5 that a plan of 3,000 cells (8,450 jobs) takes without this file.
import functools
import gc
import inspect
import types

import snakemake.script
from snakemake.common import get_function_params, overwrite_function_params
from snakemake.executors.dryrun import Executor as DryRun
from snakemake.resources import Resource
from snakemake.rules import Rule
from snakemake.settings.types import Quietness


def collect_garbage_seldom():
    """2.3 s: each collection looks at every job so far, and jobs are not garbage."""
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


def keep_signatures():
    """1.6 s: the signature of each function of a rule is inspected three times per job."""
    parameters = dict(inspect.signature(Resource.evaluate).parameters)
    del parameters["self"]
    overwrite_function_params(Resource.evaluate, types.MappingProxyType(parameters))
    for each in workflow.rules:
        for item in (*each.input, *each.params, *each.resources.values()):
            for name in ("_file", "callable", "_evaluator"):
                item = getattr(item, name, None) or item
            if isinstance(item, types.FunctionType):
                overwrite_function_params(item, get_function_params(item))


def keep_scripts():
    """4.9 s: the script of each job is looked up, opened and read."""
    cache = workflow.sourcecache
    cache._cache = functools.lru_cache(maxsize=None)(cache._cache)
    get_source, read = snakemake.script.get_source, {}

    def get_source_once(path, sourcecache, basedir=None, wildcards=None, params=None):
        key = (str(path), basedir and basedir.get_path_or_uri(secret_free=True))
        if "{" in key[0] or sourcecache is not cache:
            return get_source(path, sourcecache, basedir, wildcards, params)
        if key not in read:
            read[key] = get_source(path, sourcecache, basedir, wildcards, params)
        return read[key]

    snakemake.script.get_source = get_source_once


def share_resources():
    """1.1 s: cells that differ in their seed only ask for the same resources, and read inputs of the same size."""
    expand, known = Rule.expand_resources, {}

    def expand_once(self, wildcards, input, attempt, skip_evaluation=None):
        if "seed" not in wildcards:
            return expand(self, wildcards, input, attempt, skip_evaluation)
        shared = tuple(wildcards[name] for name in ("model", "method", "dataset", "retrieval"))
        key = (self.name, shared, attempt, frozenset(skip_evaluation or ()))
        if key not in known:
            known[key] = expand(self, wildcards, input, attempt, skip_evaluation)
        return type(known[key])(toclone=known[key])  # a job may add to its own

    Rule.expand_resources = expand_once


def describe_no_silent_jobs():
    """1.8 s: a dry run describes each job, also under `--quiet rules`, which then drops the text."""
    quiet = workflow.output_settings.quiet or set()
    if {Quietness.RULES, Quietness.ALL} & set(quiet):
        DryRun.printjob = lambda self, job: None


# RETROTUNE_PLAIN_PLANNING=1: Snakemake as it is, to compare
if not os.environ.get("RETROTUNE_PLAIN_PLANNING"):
    collect_garbage_seldom()
    try:
        keep_signatures()
        keep_scripts()
        share_resources()
        describe_no_silent_jobs()
    except (AttributeError, KeyError, TypeError) as error:
        logger.debug(f"planning is slower than it could be, Snakemake has changed: {error}")
