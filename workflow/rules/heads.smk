# Before the first job: the only head of this study, and its turn where several studies share a folder of resources.
import contextlib
import os
import signal
import sys
import threading
import time

from retrotune.errors import BusyError
from retrotune.runtime import heads
from snakemake.exceptions import WorkflowError
from snakemake.logging import logger


def claim_files():
    """Refuse to begin beside another head of this study; wait for heads of others that make what is shared."""
    jobs = list(workflow.dag.needrun_jobs())
    head = heads.Head.here(CONFIG.study, [log for job in jobs for log in job.log])
    resources = heads.Resources(PATHS.resources, head, logger.warning)
    missing = [path for job in jobs for path in workflow.dag.reason(job).missing_output]
    try:
        with stopped_by_signals():
            heads.claim_study(PATHS.study, head, logger.warning)
            up_to_date = resources.claim([path for job in jobs for path in job.output], missing)
    except BusyError as error:
        raise WorkflowError(str(error)) from None
    if not up_to_date:
        plan_again()
    makers = [job for job in jobs if any(map(resources.holds, job.output))]
    threading.Thread(target=release_made, args=(resources, makers), daemon=True).start()


@contextlib.contextmanager
def stopped_by_signals():
    """Snakemake would go on waiting after SIGTERM, and show a traceback after SIGINT."""

    def stop(number, frame):
        raise BusyError(f"stopped by {signal.Signals(number).name} before the first job")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def release_made(resources, makers):
    """Snakemake has no hook after a job."""
    while not all(map(workflow.dag.finished, makers)):
        time.sleep(1)
    resources.made()


def plan_again():
    """Snakemake plans once: start it anew in this process."""
    logger.warning("planning again, with what is there")
    workflow.persistence.unlock()
    workflow.logger_manager.stop()
    os.chdir(workflow.workdir_init)
    os.execv(sys.executable, sys.orig_argv)
