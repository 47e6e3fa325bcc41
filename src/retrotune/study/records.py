"""Files that a cell leaves behind: their schemas, and how they are read.

Whatever reads one of these files reads it here. A file is refused that was made by other versions of the cell's stages
than this code has, that lacks a key or has one too many, or whose values are of other types, out of range, or not
finite. `retrotune docs` makes the page of these files from this module.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import ConfigDict, Field, ValidationError

from retrotune.entries import Count, Entry, PositiveInt
from retrotune.errors import DataError, ResultError
from retrotune.runtime.files import read_json, sha256
from retrotune.runtime.software import software
from retrotune.study.cells import Cell
from retrotune.study.paths import CELL_STAGES
from retrotune.study.stages import VERSIONS

Percent = Annotated[float, Field(ge=0, le=100)]
Seconds = Annotated[float, Field(ge=0)]
Joules = Annotated[float, Field(ge=0)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
SHOWN = 60
"""So many characters of a wrong value are shown."""


class OutdatedError(ResultError):
    """A result was made by an earlier version of a stage, or of other data, and cannot stand beside present ones."""


class Record(Entry):
    """Base of what these files hold: types as they are written, and finite numbers."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


# one line per question ----------------------------------------------------------------------------------------------
class FileRecord(Record):
    """Base of what a file, or a line of one, holds: the file's name, and what is done about one that is refused."""

    name: ClassVar[str]
    remedy: ClassVar[str]


class Line(FileRecord):
    """Base of lines, each of them about one test question."""

    question_id: str = Field(description="the question, as in the dataset's parquet files")


class Prediction(Line):
    """A line of `predictions.jsonl`: what the model said to one test question. Lines come in the order of questions."""

    name = "predictions.jsonl"
    remedy = "delete it and predict the cell again"

    question: str = Field(description="its text")
    prediction: str = Field(description="the answer after post-processing, which is scored; empty if none was found")
    text: str = Field(description="what the model generated")
    context_ids: list[str] = Field(description="passages in the prompt, best first")
    neighbor_ids: list[str] = Field(description="passages that RETRO's neighbor encoder read, best first")
    prompt_hash: str = Field(description="digest of the tokens that the model read, neighbors included")
    num_prompt_tokens: Count = Field(description="tokens of the prompt")
    num_truncated_tokens: Count = Field(description="tokens of passages that did not fit and were cut")
    num_new_tokens: Count | None = Field(None, description="tokens generated; null in results of earlier versions")


class QuestionScores(Line):
    """A line of `scores.jsonl`: how good one answer is. Lines come in the order of `predictions.jsonl`."""

    name = "scores.jsonl"
    remedy = "delete it and run snakemake, which scores the cell again"

    doc_id: str | None = Field(description="its document; null in the open domain")
    type: str | None = Field(description="the type of the nearest reference answer, where the dataset has types")
    scores: dict[str, Percent] = Field(
        description="score by part, 0 to 100; a metric is a function of its parts' means over questions"
    )


# one record per stage -----------------------------------------------------------------------------------------------
class GitState(Record):
    """The checkout that the code was in."""

    commit: str = Field(description="the commit that was checked out")
    dirty: bool = Field(description="whether tracked files had changes that are in no commit")


class Software(Record):
    """The program that ran a stage, and the machine."""

    retrotune: str = Field(description="version of this package")
    torch: str | None = Field(description="version of PyTorch; null: not installed, as below")
    transformers: str | None = Field(description="version of transformers")
    peft: str | None = Field(description="version of peft")
    faiss: str | None = Field(description="version of FAISS")
    rouge_score: str | None = Field(description="version of rouge-score")
    python: str = Field(description="version of Python")
    platform: str = Field(description="the machine's system and architecture")
    git: GitState | None = Field(description="the code's checkout; null: installed without one")


class Versions(Software):
    """The program that scored, and the stages that made the result."""

    stages: dict[str, PositiveInt] = Field(description="number of the code of each of the cell's stages that ran")


class ReadFiles(Record):
    """The sha256 of the files that a stage read."""

    examples: Digest = Field(description="questions of the split")
    model: Digest | None = Field(description="manifest of the base model, which has the digests of its weights")
    neighbors: Digest | None = Field(description="neighbor cache of the split; null: no retrieval")


class ScoredFiles(ReadFiles):
    """The sha256 of the files that a result rests on: what prediction read, and what scoring read and wrote."""

    predictions: Digest = Field(description="predictions.jsonl")
    references: Digest = Field(description="reference answers of the test split")
    scores: Digest = Field(description="scores.jsonl")


class BaseModelFacts(Record):
    """What a base model's manifest says of it."""

    num_parameters: Count | None = Field(description="parameters of the base model, each counted once")
    fingerprint: str | None = Field(description="digest of its weights; null: its manifest has none")
    departures: list[str] = Field(description="what it has that NVIDIA's models have not")
    trust_remote_code: bool = Field(False, description="whether it ran Python code of its own")


class PredictedModel(BaseModelFacts):
    """The base model of a prediction."""

    params: dict[str, Any] | None = Field(description="what the stage that made it used; null: not known")


class Made(Record):
    """By what a stage's result was made, and when."""

    software: Software = Field(description="the program and the machine")
    finished: str = Field(description="when the result was written, in UTC")


class Work(Record):
    """What a cell's training or prediction took of the machine."""

    peak_memory_bytes: Count = Field(description="of the device's allocations on a GPU, of the process on a CPU")
    energy_joules: Joules | None = Field(
        None, description="energy that the GPUs took meanwhile; null: not measured, or results of earlier versions"
    )
    num_devices: PositiveInt | None = Field(
        None, description="GPUs that worked together, on CPUs processes; null in results of earlier versions"
    )
    made: Made | None = Field(None, description="by what and when; null in results of earlier versions")


class Training(Work):
    """What training cost."""

    steps: PositiveInt = Field(description="optimizer steps")
    tokens: Count = Field(description="tokens read, padding left out")
    seconds: Seconds = Field(description="time of training, interruptions left out")
    device: str | None = Field(None, description="cpu, or the GPU's name; null in results of earlier versions")
    num_trainable_params: Count = Field(description="parameters that were trained")
    num_total_params: Count = Field(description="parameters of the model with what the method added")
    adapter_bytes: Count = Field(description="size of what was saved")
    final_loss: float = Field(description="loss of the last step")
    truncated: Count = Field(description="training questions whose passages were cut")
    truncated_answers: Count = Field(description="training questions whose answer was cut")
    inputs: ReadFiles = Field(description="files that training read")


class Predicting(Work):
    """What prediction cost."""

    num_questions: PositiveInt = Field(description="test questions")
    seconds: Seconds = Field(description="time of generation")
    prompt_tokens: Count = Field(description="tokens of all prompts")
    generated_tokens: Count = Field(description="tokens generated")
    num_truncated_questions: Count = Field(description="questions whose passages were cut")
    num_truncated_tokens: Count = Field(description="tokens of passages that were cut")
    retrieval_gate: float | None = Field(description="factor on what the model reads from neighbors; null: no RETRO")
    device: str = Field(description="cpu, or the GPU's name")


def now() -> str:
    """The time as records have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def made() -> dict[str, Any]:
    """`Made` of what is written at this moment, as JSON has it."""
    return {"software": software(), "finished": now()}


class StageRecord(FileRecord):
    """Base of files that one stage writes when it is done."""

    @classmethod
    def made_by(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Numbers of the stages that made a file with these values; raises `LookupError` or `TypeError` without any."""
        raise NotImplementedError


class TrainRecord(Training, StageRecord):
    """`train.json`: written last by fine-tuning; a method that trains nothing has none."""

    name = "train.json"
    remedy = "delete it and run snakemake, which trains the cell again"

    params: dict[str, Any] = Field(description="what the stage used of the study, `version` its number")

    @classmethod
    def made_by(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Its own number."""
        return {"finetune_cell": values["params"]["version"]}


class PredictRecord(Predicting, StageRecord):
    """`predict.json`: written last by prediction."""

    name = "predict.json"
    remedy = "delete it and run snakemake, which predicts the cell again"

    model: PredictedModel = Field(description="the base model")
    inputs: ReadFiles = Field(description="files that prediction read")
    params: dict[str, Any] = Field(description="what the stage used of the study, `version` its number")

    @classmethod
    def made_by(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Its own number."""
        return {"predict_cell": values["params"]["version"]}


class MetricValue(Record):
    """One metric over all questions, or over those of one type."""

    value: Percent = Field(description="the metric, 0 to 100")
    ci_low: Percent | None = Field(description="lower bound of the 95 % interval; null: one cluster says nothing of it")
    ci_high: Percent | None = Field(description="upper bound")
    n: PositiveInt = Field(description="questions")
    clusters: PositiveInt = Field(description="documents, or questions in the open domain: what intervals are over")
    higher_is_better: bool = Field(description="true of all metrics")
    primary: bool = Field(description="whether tables show it: the dataset's headline metric")


class CellName(Record):
    """A cell's coordinates."""

    model: str = Field(description="entry of `models`")
    method: str = Field(description="entry of `methods`")
    dataset: str = Field(description="entry of `datasets`")
    retrieval: str = Field(description="entry of `retrievals`")
    seed: Count = Field(description="seed of training")

    @property
    def cell(self) -> Cell:
        """The cell."""
        return Cell(**self.model_dump())


class MetricsRecord(StageRecord):
    """`metrics.json`: a cell's result, written last by scoring. Its existence says that the cell is done."""

    name = "metrics.json"
    remedy = "delete it and run snakemake, which scores the cell again"

    cell: CellName = Field(description="the cell")
    status: Literal["done", "failed"] = Field(description="`done`; `failed` has no metrics, and a `problem`")
    problem: str | None = Field(None, description="why there are no metrics")
    scale: Literal["0 to 100"] = Field(description="scale of metrics")
    model: BaseModelFacts = Field(description="the base model")
    metrics: dict[str, MetricValue] = Field(description="metrics by name")
    by_type: dict[str, MetricValue] = Field(description="the headline metric by type of answer, where there are types")
    train: Training | None = Field(description="what training cost; null: nothing was trained")
    predict: Predicting = Field(description="what prediction cost")
    inputs: ScoredFiles = Field(description="files that the result rests on")
    versions: Versions = Field(description="program that scored, and stages that made the result")
    finished: str = Field(description="when it was written, in UTC")

    @classmethod
    def made_by(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The numbers of the cell's stages that ran."""
        stages = values["versions"]["stages"]
        return {"score_cell": stages["score_cell"], **{name: stages[name] for name in CELL_STAGES if name in stages}}

    @property
    def makers(self) -> dict[str, Made | None]:
        """By what each of the cell's stages that ran was run, in their order; None where that was not recorded."""
        made = {
            "finetune_cell": self.train.made if self.train else None,
            "predict_cell": self.predict.made,
            "score_cell": Made(software=self.versions, finished=self.finished),
        }
        return {stage: made[stage] for stage in CELL_STAGES if stage in self.versions.stages}


FILES: tuple[type[FileRecord], ...] = (Prediction, QuestionScores, MetricsRecord, PredictRecord, TrainRecord)
"""Every file that has a schema here, in the order of docs."""
Read = TypeVar("Read", bound=StageRecord)
Answered = TypeVar("Answered", bound=Line)


def read_record(kind: type[Read], path: str | Path) -> Read:
    """The file of a stage, of that `kind`.

    Raises `OutdatedError` if an earlier version of a stage made it; `ResultError` if a later one did, or if it is
    missing, damaged or not as its schema says: with the file, the key, the value and the remedy.
    """
    try:
        values = read_json(path)
    except DataError as error:
        raise ResultError(f"{error}; {kind.remedy}") from error
    try:
        made = dict(kind.made_by(values))
    except (LookupError, TypeError) as error:
        raise ResultError(f"{path}: no {kind.name}, as it says no version of its stage; {kind.remedy}") from error
    for stage, version in made.items():
        known = VERSIONS[stage]
        if not isinstance(version, int) or isinstance(version, bool):
            raise ResultError(f"{path}: {stage} version {version!r} is no number; {kind.remedy}")
        if version > known:
            raise ResultError(
                f"{path}: made by a later retrotune: {stage} version {version}, this one knows {known}; "
                f"update retrotune, or {kind.remedy}"
            )
        if version < known:
            raise OutdatedError(
                f"{path}: made by {stage} version {version}, and this retrotune has version {known}; run snakemake, "
                "which makes it again"
            )
    return checked(kind, values, path)


def checked(kind: type[Read], values: Any, path: str | Path) -> Read:
    """`values` as a record. Raises `ResultError` with file, key, value and remedy if its schema refuses them."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ResultError(f"{path}: {_said(error)}; {kind.remedy}") from error


def read_metrics(path: str | Path) -> MetricsRecord:
    """A cell's `metrics.json`; raises as `read_record` does."""
    return read_record(MetricsRecord, path)


def read_predictions(path: str | Path) -> Iterator[tuple[int, Prediction]]:
    """(line number, answer) of each line of a `predictions.jsonl`.

    Raises `ResultError` with file, line, key, value and remedy for what its schema refuses, and for a question that
    comes again.
    """
    return _lines(Prediction, path)


def read_scores(path: str | Path, digest: str | None = None) -> list[QuestionScores]:
    """All lines of a `scores.jsonl`, whose sha256 is `digest` where one is given, as `metrics.json` has it in `inputs`.

    Raises `ResultError` as `read_predictions` does. 600,000 lines of eight parts take 4.3 s of a core.
    """
    lines = [line for _, line in _lines(QuestionScores, path)]
    if digest is not None and sha256(path) != digest:
        remedy = QuestionScores.remedy
        raise ResultError(f"{path}: not the scores that metrics.json beside it was made of; {remedy}")
    return lines


def _lines(kind: type[Answered], path: str | Path) -> Iterator[tuple[int, Answered]]:
    validate: Callable[[bytes], Answered] = kind.__pydantic_validator__.validate_json
    remedy = kind.remedy
    seen: set[str] = set()
    try:
        stream = open(path, "rb")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise ResultError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    with stream:
        for number, text in enumerate(stream, start=1):
            if text.isspace():
                continue
            try:
                line = validate(text)
            except ValidationError as error:
                raise ResultError(f"{path}:{number}: {_owner(text)}{_said(error)}; {remedy}") from error
            if line.question_id in seen:
                raise ResultError(f"{path}:{number}: question {line.question_id!r} appears twice; {remedy}")
            seen.add(line.question_id)
            yield number, line


def _said(error: ValidationError) -> str:
    """The first thing that a schema refuses, with its key and value, and how many there are."""
    first, *others = error.errors(include_url=False)
    key = ".".join(map(str, first["loc"]))
    more = f" (and {len(others)} more)" if others else ""
    match first["type"]:
        case "json_invalid":
            said = re.sub(r" at line \d+ column \d+$", "", first["ctx"]["error"])
            return f"not valid JSON ({said}); truncated or damaged?"
        case "missing":
            return f"lacks the key {key}{more}"
        case "extra_forbidden":
            return f"has the key {key}, which is not known{more}"
    value = repr(first["input"])
    shown = value if len(value) <= SHOWN else f"{value[:SHOWN]}..."
    wanted = re.sub("^Input ", "", first["msg"])
    return f"{key} is {shown}, but {wanted}{more}" if key else f"{shown} {wanted}{more}"


def _owner(text: bytes) -> str:
    """The question that a line is about, for a message, if it tells."""
    found = re.search(rb'"question_id": *("(?:[^"\\]|\\.)*")', text)
    return f"question {found[1].decode('utf-8', errors='replace')}: " if found else ""
