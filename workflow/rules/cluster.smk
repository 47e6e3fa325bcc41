# What jobs ask of a cluster, who shares a job, and what is looked at before the first job and after a failure.

# the head of a run on a cluster, and each job of it
ON_CLUSTER = workflow.remote_exec or workflow.resource_settings.nodes is not None


def profile_words():
    """Words under `default-resources` of the profile."""
    defaults = workflow.resource_settings.default_resources or {}
    return {key: str(getattr(defaults[key], "raw", defaults[key])).strip("'") for key in KEYS if key in defaults}


REQUESTS = Requests(CONFIG, profile_words())


def in_group(name):
    """Group function: work on cells of one base model that a job of a cluster does; `--group-components NAME=8` cells."""
    if not ON_CLUSTER:
        return None

    def group(wildcards):
        if workflow.group_settings.group_components.get(name, 1) == 1:
            return None
        group = f"{name}_{wildcards.model}"
        workflow.parent_groupids[group] = name
        return group

    return group


def warn_of_gpus():
    """Before the first job of a run on this computer: say which entries ask for GPUs that are not here."""
    if ON_CLUSTER:
        return
    jobs = [job for job in workflow.dag.needrun_jobs() if gpus_asked(job.resources)]
    if said := unseen_gpus(REQUESTS.by_entry((job.rule.name, dict(job.wildcards.items())) for job in jobs)):
        logger.warning(said)


def prepare_cluster():
    """Before the first job of a run on Slurm: refuse what Slurm would refuse, or leave waiting, job by job."""
    if workflow.executor_plugin.name != "slurm":
        return
    if quoted := [value for value in workflow.config_settings.config_args or () if "'" in str(value)]:
        raise WorkflowError(
            f"--config {quoted[0]}: Snakemake does not pass apostrophes on to jobs: use double quotes inside, or a file "
            "of its own after --configfile"
        )
    jobs = [(job.rule.name, dict(job.wildcards.items())) for job in workflow.dag.needrun_jobs()]
    profiles = sorted(Path(workflow.basedir).glob("profiles/slurm*/config.yaml"))
    try:
        REQUESTS.limits.update(check_cluster(REQUESTS.by_entry(jobs), REQUESTS.profile, profiles))
    except ClusterError as error:
        raise WorkflowError(str(error)) from None
    settings = workflow.executor_settings
    if others := jobs_of_others(settings.jobname_prefix, workflow.workdir_init):
        logger.warning(
            f"jobs of another Snakemake from this folder are in Slurm's queue: {' '.join(others)}. If it was killed, cancel "
            f"them before the same cells are made twice: scancel {' '.join(others)}"
        )
    if settings.status_command == "sacct" and not accounting_answers():
        logger.warning("no accounting answers sacct: the state of jobs is asked of squeue, which gives no reasons")
        settings.status_command = "squeue"


def clean_cluster(logs):
    """After a run on Slurm that failed or was interrupted: nothing stays in the queue; explain jobs without any log."""
    if workflow.executor_plugin.name != "slurm":
        return
    said = "".join(Path(log).read_text(encoding="utf-8", errors="replace") for log in logs)
    if jobs := cancel_left(said):
        logger.warning(f"canceled jobs that were left in Slurm's queue: {' '.join(jobs)}")
    if jobs := failed_without_log(said):
        logger.error(
            f"{', '.join(jobs)} failed without a line in Slurm's log. Did a node not see {workflow.workdir_init}? Work in a "
            "folder that all nodes share, or leave the node out: --default-resources slurm_extra=\"'--exclude=NODE'\""
        )


# Cells that share a job of a cluster are worked on one after the other, in what one of them asks for.
if ON_CLUSTER:
    workflow.register_resource("cell", 1)


resource_scopes:
    cell="local",
