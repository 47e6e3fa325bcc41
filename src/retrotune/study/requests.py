"""What jobs ask of a cluster: resources of rules, out of the `resources` of models and `rule_resources`."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from retrotune.runtime.slurm.limits import ACCOUNT, CPU_PARTITION, GPU_PARTITION, Limits, grown
from retrotune.study.config import Config, ModelResources, Resources

KEYS = (CPU_PARTITION, GPU_PARTITION, ACCOUNT, "gpu_type", "gpu_constraint")
"""Words of a profile's `default-resources` that are read here."""

Value = Callable[..., Any]
"""A resource as Snakemake takes it: a function of a job's wildcards, and of its attempt if it asks for that."""


class Requests:
    """What the jobs of a study ask for.

    Args:
        config: the study
        profile: words under `default-resources` of the profile, by their `KEYS`

    `limits` holds the most that a job can get, by key of its partition. It is filled when a run on a cluster starts.

    """

    def __init__(self, config: Config, profile: Mapping[str, str]) -> None:
        self.config = config
        self.profile = profile
        self.limits: dict[str, Limits] = {}

    def of(self, rule: str | None, wildcards: Any) -> Resources:
        """The entry of a rule in `rule_resources`, or (None) that of the model that its job works on."""
        entry: Resources = (
            getattr(self.config.rule_resources, rule) if rule else self.config.models[wildcards.model].resources
        )
        return entry

    def by_entry(self, jobs: Iterable[tuple[str, Mapping[str, str]]]) -> dict[str, Resources]:
        """What the jobs (rule, wildcards) of a run ask for, by the key of the configuration that says so."""
        jobs = list(jobs)
        models = sorted({names["model"] for _, names in jobs if "model" in names})
        # the rule for retrofitting is a copy of that for pretraining
        rules = {rule.replace("retrofitting", "pretraining") for rule, _ in jobs}
        wanted: dict[str, Resources] = {
            f"models.{name}.resources": self.config.models[name].resources for name in models
        }
        return wanted | {f"rule_resources.{name}": value for name, value in self.config.rule_resources if name in rules}

    def cpus(self, rule: str | None = None) -> Value:
        """Threads of a rule."""
        return lambda wildcards: self.of(rule, wildcards).cpus

    def resources(self, rule: str | None = None) -> dict[str, Value]:
        """Resources of a rule whose jobs take one node. A further attempt gets more memory and time."""
        return {
            **self._common(rule),
            "gpu": lambda wildcards: self.of(rule, wildcards).gpus or None,
            # under a name of its own in the profile: as a default it would make Slurm give GPUs to all jobs
            "gpu_model": lambda wildcards: self._of_gpu_jobs("gpu_type", self.of(rule, wildcards)),
            "nodes": lambda wildcards: 1,
        }

    def of_training(self) -> dict[str, Value]:
        """Resources of a rule that trains a model, on one node or several.

        On one node `tasks` stays unset: Slurm would take it per GPU, and reserve the CPU cores as often. A training on
        several nodes is one task on each, called an MPI job: of these the executor starts Snakemake once, outside of
        any job step, and the stage itself calls srun (`runtime.launching`). GPUs are then asked for per node (`gres`),
        where `gpu` is a number for the whole job.
        """

        def spread(value: Callable[[ModelResources], Any]) -> Value:
            """A resource of trainings on several nodes only."""
            return lambda wildcards: value(model) if (model := self._model(wildcards)).nodes > 1 else None

        def together(value: Callable[[ModelResources], Any]) -> Value:
            """A resource of trainings by several processes only."""

            def of(wildcards: Any) -> int | None:
                model = self._model(wildcards)
                return int(value(model)) if model.nodes * model.processes_per_node > 1 else None

            return of

        def on_one_node(value: Callable[[ModelResources], Any]) -> Value:
            return lambda wildcards: value(model) if (model := self._model(wildcards)).nodes == 1 else None

        return {
            **self._common(None),
            "gpu": on_one_node(lambda model: model.gpus or None),
            "gpu_model": on_one_node(lambda model: self._of_gpu_jobs("gpu_type", model)),
            "nodes": lambda wildcards: self._model(wildcards).nodes,
            "processes": together(lambda model: model.processes_per_node),
            "one_per_device": together(lambda model: model.gpus > 0),
            "sharded": together(lambda model: model.sharded),
            "mpi": spread(lambda model: "srun"),
            "tasks": spread(lambda model: model.nodes),
            # else `tasks` would be meant per GPU
            "tasks_per_gpu": spread(lambda model: 0 if model.gpus else None),
            "gres": spread(self._gres),
        }

    def _common(self, rule: str | None) -> dict[str, Value]:
        def grow(key: str) -> Value:
            def value(wildcards: Any, attempt: int) -> int:
                wanted = self.of(rule, wildcards)
                return grown(wanted, key, attempt, self.limits.get(_partition_key(wanted)))

            return value

        return {
            "mem_mb": grow("mem_mb"),
            "runtime": grow("runtime"),
            "constraint": lambda wildcards: self._of_gpu_jobs("gpu_constraint", self.of(rule, wildcards)),
            "slurm_partition": lambda wildcards: self.profile.get(_partition_key(self.of(rule, wildcards))),
        }

    def _model(self, wildcards: Any) -> ModelResources:
        return self.config.models[wildcards.model].resources

    def _of_gpu_jobs(self, key: str, wanted: Resources) -> str | None:
        return self.profile.get(key) if wanted.gpus else None

    def _gres(self, model: ModelResources) -> str | None:
        if not model.gpus:
            return None
        return ":".join(["gpu", *filter(None, [self.profile.get("gpu_type")]), str(model.gpus)])


def _partition_key(wanted: Resources) -> str:
    return GPU_PARTITION if wanted.gpus else CPU_PARTITION
