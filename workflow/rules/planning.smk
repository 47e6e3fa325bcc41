# Work that Snakemake does again for each of thousands of jobs, done once. Included last, as it looks at all rules. The
# processor seconds named are what a plan of 3,000 cells (8,455 jobs, 7 s) takes longer without each: medians of seven
# runs, which differ by 0.9.
import functools
import gc
import itertools
import os

from snakemake import common, rules
from snakemake.dag import DAG, ScriptProcessor
from snakemake.io import IOCache, _IOFile
from snakemake.jobs import Job
from snakemake.logging import logger
from snakemake.rules import Rule
from snakemake.scheduling.job_scheduler import JobScheduler
from snakemake.settings.types import Quietness


def collect_no_garbage():
    """3 s: each collection looks at every job so far, and jobs are not garbage."""
    gc.disable()


def collect_garbage_again():
    """In what stays for the whole run, which leaves the plan alone."""
    gc.freeze()
    gc.enable()


def keep_scripts():
    """9 s: the script of each job is looked up, opened and read, for which its params are worked out."""
    process, seen = ScriptProcessor.process_job, set()

    def process_once(self, job):
        if (type(self), job.rule) not in seen:
            seen.add((type(self), job.rule))
            process(self, job)

    ScriptProcessor.process_job = process_once


def share_resources():
    """1 s: cells that differ in their seed only ask for the same resources, and read inputs of the same size."""
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


def share_environments():
    """1 s: a job's environment could depend on its params, which are worked out for that; it is its rule's."""
    known = {}

    def environment(self):
        own = self.rule
        if own not in known:
            known[own] = own.expand_conda_env(self.wildcards_dict, self.params, self.input)
        return known[own]

    Job.conda_env_spec = property(environment)


def keep_signatures():
    """0.3 s: each call of an input function looks at the function's parameters first."""
    look = functools.cache(common.get_function_params)
    common.get_function_params = rules.get_function_params = look


def compare_folders_as_text():
    """0.6 s: outputs inside each other's folders are looked for with a path object and several calls for each file."""
    check = DAG.check_directory_outputs

    def check_if_any(self):
        files = {os.path.join(os.path.abspath(file), "") for job in self.jobs for file in job.output}
        paths = sorted(file.replace(os.sep, "\0") for file in files)
        if any(after.startswith(before) for before, after in itertools.pairwise(paths)):
            check(self)

    DAG.check_directory_outputs = check_if_any


def look_at_times_when_needed():
    """0.3 s: before a plan the times of all files are read; those of local files are read no faster in advance."""

    async def nothing(self, jobs, n_workers=8):
        pass

    IOCache.mtime_inventory = nothing


def forgo_storage():
    """0.7 s: each file is asked for dozens of times whether it lies in a storage; none does unless one is named."""
    if workflow.storage_settings.default_storage_provider is None:
        _IOFile.is_storage = False


def skip_silent_jobs():
    """1 s: a dry run goes through all jobs to describe them, also under `--quiet rules`, which drops the text."""
    schedule = JobScheduler.schedule
    quiet = {Quietness.RULES, Quietness.ALL} & set(workflow.output_settings.quiet or ())
    JobScheduler.schedule = lambda self: (self.workflow.dryrun and bool(quiet)) or schedule(self)


# RETROTUNE_PLAIN_PLANNING=1: Snakemake as it is, to compare
if not os.environ.get("RETROTUNE_PLAIN_PLANNING"):
    collect_no_garbage()
    try:
        keep_scripts()
        share_resources()
        share_environments()
        keep_signatures()
        compare_folders_as_text()
        look_at_times_when_needed()
        forgo_storage()
        skip_silent_jobs()
    except (AttributeError, KeyError, TypeError) as error:
        logger.debug(f"planning is slower than it could be, Snakemake has changed: {error}")
