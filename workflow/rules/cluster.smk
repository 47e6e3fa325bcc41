# What jobs ask of a cluster, who shares a job, and what is looked at before the first job and after a failure.

# the head of a run on a cluster, and each job of it
ON_CLUSTER = workflow.remote_exec or workflow.resource_settings.nodes is not None
# the most that a job can get, by partition; known when a run on a cluster starts
LIMITS = {}


def request(rule, wildcards):
    """What a job asks for: its rule's entry in `rule_resources`, or (None) that of the model that it works on."""
    return getattr(CONFIG.rule_resources, rule) if rule else CONFIG.models[wildcards.model].resources


def cpus(rule=None):
    """Threads of a rule."""
    return lambda wildcards: request(rule, wildcards).cpus


def ask(rule=None, training=False):
    """Resources of a rule. Each further attempt gets more memory and time, up to what a node of the partition has.

    On one node `tasks` stays unset: Slurm would take it per GPU, and reserve the CPU cores as often. A training on several nodes is one task on each,
    called an MPI job: of these the executor starts Snakemake once, outside of any job step, and the stage itself calls
    srun (`retrotune.runtime.launching`). GPUs are then asked for per node (`gres`), where `gpu` is a number for the whole job.
    """

    def nodes(wildcards):
        return request(rule, wildcards).nodes if training else 1

    def spread(value):
        """A resource of trainings on several nodes only."""
        return lambda wildcards: value(request(rule, wildcards)) if nodes(wildcards) > 1 else None

    def gres(wanted):
        model = profile_default("gpu_type")
        return ":".join(["gpu", *([model] if model else []), str(wanted.gpus)]) if wanted.gpus else None

    def key_of(wanted):
        return slurm.GPU_PARTITION if wanted.gpus else slurm.CPU_PARTITION

    def grown(key):
        def value(wildcards, attempt):
            wanted = request(rule, wildcards)
            return slurm.grown(wanted, key, attempt, LIMITS.get(key_of(wanted)))

        return value

    def of_gpu_jobs(key):
        return lambda wildcards: profile_default(key) if request(rule, wildcards).gpus else None

    def together(value):
        """A resource of trainings by several processes only."""

        def of(wildcards):
            wanted = request(rule, wildcards)
            return int(value(wanted)) if wanted.nodes * wanted.processes_per_node > 1 else None

        return of

    trained_by = {
        "processes": together(lambda wanted: wanted.processes_per_node),
        "one_per_device": together(lambda wanted: wanted.gpus > 0),
        "sharded": together(lambda wanted: wanted.sharded),
        "mpi": spread(lambda wanted: "srun"),
        "tasks": spread(lambda wanted: wanted.nodes),
        # else `tasks` would be meant per GPU
        "tasks_per_gpu": spread(lambda wanted: 0 if wanted.gpus else None),
        "gres": spread(gres),
    }
    return {
        "mem_mb": grown("mem_mb"),
        "runtime": grown("runtime"),
        "gpu": lambda wildcards: request(rule, wildcards).gpus or None if nodes(wildcards) == 1 else None,
        # under names of their own in the profile: as defaults they would make Slurm give GPUs to all jobs
        "gpu_model": lambda wildcards: of_gpu_jobs("gpu_type")(wildcards) if nodes(wildcards) == 1 else None,
        "constraint": of_gpu_jobs("gpu_constraint"),
        "nodes": nodes,
        "slurm_partition": lambda wildcards: profile_default(key_of(request(rule, wildcards))),
        **(trained_by if training else {}),
    }


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


def profile_default(key):
    """A word under `default-resources` of the profile; None where there is none."""
    defaults = workflow.resource_settings.default_resources or {}
    if key not in defaults:
        return None
    return str(getattr(defaults[key], "raw", defaults[key])).strip("'")


def prepare_cluster():
    """Before the first job of a run on Slurm: refuse what Slurm would refuse, or leave waiting, job by job."""
    if workflow.executor_plugin.name != "slurm":
        return
    if quoted := [value for value in workflow.config_settings.config_args or () if "'" in str(value)]:
        raise WorkflowError(
            f"--config {quoted[0]}: Snakemake does not pass apostrophes on to jobs: use double quotes inside, or a file "
            "of its own after --configfile"
        )
    jobs = list(workflow.dag.needrun_jobs())
    models = sorted({job.wildcards.model for job in jobs if "model" in job.wildcards.keys()})
    # the rule for retrofitting is a copy of that for pretraining
    rules = {job.rule.name.replace("retrofitting", "pretraining") for job in jobs}
    wanted = {f"models.{name}.resources": CONFIG.models[name].resources for name in models}
    wanted |= {f"rule_resources.{name}": value for name, value in CONFIG.rule_resources if name in rules}
    keys = (slurm.CPU_PARTITION, slurm.GPU_PARTITION, slurm.ACCOUNT)
    try:
        LIMITS.update(
            slurm.check_cluster(
                wanted,
                {key: profile_default(key) for key in keys},
                sorted(Path(workflow.basedir).glob("profiles/slurm*/config.yaml")),
            )
        )
    except ClusterError as error:
        raise WorkflowError(str(error)) from None
    settings = workflow.executor_settings
    if others := queue.jobs_of_others(settings.jobname_prefix, workflow.workdir_init):
        logger.warning(
            f"jobs of another Snakemake from this folder are in Slurm's queue: {' '.join(others)}. If it was killed, cancel "
            f"them before the same cells are made twice: scancel {' '.join(others)}"
        )
    if settings.status_command == "sacct" and not queue.accounting_answers():
        logger.warning("no accounting answers sacct: the state of jobs is asked of squeue, which gives no reasons")
        settings.status_command = "squeue"


def clean_cluster(logs):
    """After a run on Slurm that failed or was interrupted: nothing stays in the queue; explain jobs without any log."""
    if workflow.executor_plugin.name != "slurm":
        return
    said = "".join(Path(log).read_text(encoding="utf-8", errors="replace") for log in logs)
    if jobs := queue.cancel_left(said):
        logger.warning(f"canceled jobs that were left in Slurm's queue: {' '.join(jobs)}")
    if jobs := queue.failed_without_log(said):
        logger.error(
            f"{', '.join(jobs)} failed without a line in Slurm's log. Did a node not see {workflow.workdir_init}? Work in a "
            "folder that all nodes share, or leave the node out: --default-resources slurm_extra=\"'--exclude=NODE'\""
        )


# Cells that share a job of a cluster are worked on one after the other, in what one of them asks for.
if ON_CLUSTER:
    workflow.register_resource("cell", 1)


resource_scopes:
    cell="local",
