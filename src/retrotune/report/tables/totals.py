"""What a whole study cost: device hours, energy, memory and disk, by stage and kind of device."""

from collections.abc import Sequence
from dataclasses import dataclass

from retrotune.report.gathering.base_models import BaseModel
from retrotune.report.gathering.collect import Result
from retrotune.report.gathering.rows import unique
from retrotune.report.tables.table import Table, Value

STAGES = {
    "pretraining": "Pretraining",
    "retrofitting": "Retrofitting",
    "elsewhere": "Models from elsewhere",
    "finetuning": "Fine-tuning",
    "prediction": "Prediction",
}
"""Rows of the table by the kind of their jobs."""
WHOLE, ALL, UNRECORDED = "Whole study", "all", "not recorded"
COLUMNS = {
    "Jobs": ",d",
    "Device hours": ",.3f",
    "Energy kWh": ",.3f",
    "Peak GiB": ",.2f",
    "Disk GB": ",.3f",
}


@dataclass(frozen=True)
class Job:
    """What one job of a study took; None where that was not recorded. A model from elsewhere took disk only."""

    kind: str
    device: str | None
    seconds: float | None
    num_devices: int | None
    joules: float | None
    peak_memory_bytes: int | None
    disk_bytes: int | None

    @property
    def device_seconds(self) -> float | None:
        """Seconds times devices."""
        return None if self.seconds is None or self.num_devices is None else self.seconds * self.num_devices


def jobs_of(results: Sequence[Result], models: Sequence[BaseModel]) -> list[Job]:
    """The jobs whose records are there: base models, trainings, predictions."""
    jobs = [
        Job(m.origin, m.device, m.seconds, m.num_devices, m.energy_joules, m.peak_memory_bytes, m.disk_bytes)
        for m in models
    ]
    for result in results:
        for kind, stage, block in (
            ("finetuning", "finetune_cell", result.train),
            ("prediction", "predict_cell", result.predict),
        ):
            if block:
                device, seconds, number = (block.get(key) for key in ("device", "seconds", "num_devices"))
                joules, peak = block.get("energy_joules"), block.get("peak_memory_bytes")
                jobs.append(Job(kind, device, seconds, number, joules, peak, result.disk.get(stage)))
    return jobs


def totals_table(results: Sequence[Result], models: Sequence[BaseModel]) -> Table:
    """A row per kind of job that the study has, and one of all; of each kind of device where there are several."""
    jobs = jobs_of(results, models)
    devices = unique(job.device for job in jobs if job.device is not None)
    several = len(devices) > 1
    groups: list[tuple[list[str | None], list[Job]]] = []
    for kind, title in STAGES.items():
        own = [job for job in jobs if job.kind == kind]
        for device in unique(job.device for job in own) if several else [None] if own else []:
            name = None if kind == "elsewhere" else device or UNRECORDED
            groups.append(([title, name], [job for job in own if not several or job.device == device]))
    start = len(groups)
    if several:
        groups += [([WHOLE, device], [job for job in jobs if job.device == device]) for device in devices]
    groups.append(([WHOLE, ALL], jobs))
    labels = ["Stage", "Device"] if several else ["Stage"]
    return Table(
        title="Cost of the study",
        columns=[*labels, *COLUMNS],
        rows=[[*names[: len(labels)], *_sums(members)] for names, members in groups],
        num_labels=len(labels),
        formats=list(COLUMNS.values()),
        notes=_notes(jobs),
        rules={start} - {0},
    )


def format_totals(results: Sequence[Result], models: Sequence[BaseModel]) -> str:
    """The whole study's row as a line of text."""
    jobs = jobs_of(results, models)
    ran, joules = _ran(jobs), [job.joules for job in _ran(jobs) if job.joules is not None]
    _, hours, energy, _, disk = _sums(jobs)
    some = f" (of {len(joules)} of {len(ran)} jobs)" if len(joules) < len(ran) else ""
    return ", ".join(
        [
            "device hours not recorded" if hours is None else f"{hours:,.3f} device hours",
            "energy not measured" if energy is None else f"{energy:,.3f} kWh{some}",
            "disk not recorded" if disk is None else f"{disk:,.3f} GB on disk",
        ]
    )


def _ran(jobs: Sequence[Job]) -> list[Job]:
    """Jobs that computed something: a model from elsewhere was only fetched."""
    return [job for job in jobs if job.kind != "elsewhere"]


def _sums(jobs: Sequence[Job]) -> list[Value]:
    """The columns of the table, None where no job recorded it."""

    def total(values: list[float | None], unit: float) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / unit if known else None

    peaks = [job.peak_memory_bytes for job in jobs if job.peak_memory_bytes is not None]
    return [
        len(_ran(jobs)) or None,
        total([job.device_seconds for job in jobs], 3600),
        total([job.joules for job in jobs], 3.6e6),
        max(peaks) / 2**30 if peaks else None,
        total([job.disk_bytes for job in jobs], 1e9),
    ]


def _notes(jobs: Sequence[Job]) -> list[str]:
    ran = _ran(jobs)
    timed = sum(job.device_seconds is not None for job in ran)
    metered = sum(job.joules is not None for job in ran)
    notes = [
        "Device hours: time of training and of generation times devices, GPUs or else processes; loading, retrieval "
        "and scoring are left out. Peak memory: the highest, of the whole process on a CPU, of the device's "
        "allocations on a GPU. Disk: base models, trained weights, predictions with their scores. Base models that "
        "several studies share count in each."
    ]
    if timed < len(ran):
        notes.append(f"Device hours are those of {timed} of {len(ran)} jobs: the others did not record their devices.")
    if metered:
        notes.append(
            f"Energy is that of {metered} of {len(ran)} jobs, by the counters of their GPUs, which count all that ran "
            "there meanwhile."
        )
    else:
        notes.append(f"Energy: none of {len(ran)} jobs measured it.")
    return notes
