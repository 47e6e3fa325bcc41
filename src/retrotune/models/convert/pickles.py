"""What torch.save wrote, read without running anything that it names and without reading a tensor.

Pickles name classes and functions, and plain unpickling calls them. Here only a few names are answered: types that
hold data, and stand-ins for what Megatron leaves in its checkpoints and no weight depends on. All others are refused.
"""

import argparse
import io
import pickle
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.checkpoint import filesystem, metadata

from retrotune.errors import ModelError
from retrotune.models.convert.stored import Block


class StandIn:
    """Takes the place of an object that is not needed: accepts any arguments and state, and keeps nothing."""

    def __new__(cls, *_: Any, **__: Any) -> "StandIn":
        """Ignore what the object was made of."""
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        """Ignore it again: unpicklers call either."""

    def __setstate__(self, state: Any) -> None:
        """Ignore the state."""


IGNORED = [
    *(f"megatron.{module}.enums.ModelType" for module in ("core", "model", "legacy.model")),
    *(f"megatron.core.transformer.enums.{name}" for name in ("AttnBackend", "AttnMaskType", "CudaGraphScope")),
    *(f"megatron.core.rerun_state_machine.{name}" for name in ("RerunMode", "RerunState", "RerunDiagnostic")),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    "_io.BytesIO",
    "numpy.ndarray",
    "numpy.dtype",
    "numpy.dtypes.UInt32DType",
    "signal.Signals",
]
"""Names in Megatron's `args`, random states and run-time bookkeeping."""


@dataclass(frozen=True)
class Saved:
    """What torch.save wrote: objects, whose tensors are empty shells, and the (first byte, length) of each record."""

    path: Path
    start: int
    value: Any
    records: frozenset[tuple[int, int]]

    def block(self, tensor: torch.Tensor, name: str) -> Block:
        """Where the bytes of a shell are. Raises `ModelError` if they are not in row order, or not where torch says."""
        storage = tensor.untyped_storage()
        offset: int = getattr(storage, "_checkpoint_offset", -1)
        # torch may calculate the place instead of looking it up
        if (offset, storage.nbytes()) not in self.records:
            raise ModelError(
                f"{self.path}: {name}: not where torch would have put it; was the file packed anew? Save it with torch"
            )
        if not tensor.is_contiguous():
            raise ModelError(f"{self.path}: {name}: stored with strides {tensor.stride()}; save it as contiguous")
        place = self.start + offset + int(tensor.storage_offset()) * tensor.dtype.itemsize
        return Block(self.path, place, tuple(tensor.shape), tensor.dtype)


def load_lazily(path: Path, start: int = 0, length: int | None = None) -> Saved:
    """What torch.save wrote to `path`, or to `length` bytes of it from byte `start` on; no tensor is read.

    Raises `ModelError` for a damaged file, and for a class that is neither plain data nor known to be harmless.
    """
    known: list[Any] = [argparse.Namespace, *((StandIn, name) for name in IGNORED)]
    with open(path, "rb") as file:
        stream = file if length is None else io.BufferedReader(_Window(file, start, length))
        try:
            records = frozenset(_records(stream))
            stream.seek(0)
            with FakeTensorMode(), torch.serialization.safe_globals(known):
                # tensors saved on a GPU are described as such: the machine that converts may have none
                return Saved(path, start, torch.load(stream, map_location="cpu", weights_only=True), records)
        except pickle.UnpicklingError as error:
            named = re.search(r"GLOBAL ([\w.]+)", str(error))
            if named is None:
                raise ModelError(f"{path}: truncated or damaged ({_first_line(error)}); copy it again") from error
            raise _refused(path, named.group(1)) from error
        except zipfile.BadZipFile as error:
            raise ModelError(
                f"{path}: truncated, damaged, or written by torch before 1.6 ({error}); copy it again"
            ) from error
        except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
            raise ModelError(f"{path}: truncated or damaged ({_first_line(error)}); copy it again") from error


def _records(stream: IO[bytes]) -> Iterator[tuple[int, int]]:
    """(first byte, length) of the records of a zip archive; its directory does not say how long their headers are."""
    with zipfile.ZipFile(stream) as archive:
        for record in archive.infolist():
            if record.compress_type == zipfile.ZIP_STORED:
                stream.seek(record.header_offset)
                header = stream.read(zipfile.sizeFileHeader)  # type: ignore[attr-defined]
                lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
                yield record.header_offset + len(header) + lengths, record.file_size
        orders = [name for name in archive.namelist() if name.endswith("/byteorder")]
        if any(archive.read(name) != b"little" for name in orders):
            raise ValueError("big-endian numbers")


class _Window(io.RawIOBase):
    """A part of a file as a file."""

    def __init__(self, stream: BinaryIO, start: int, length: int) -> None:
        self.stream, self.start, self.length, self.at = stream, start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.length}[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: Any) -> int:
        self.stream.seek(self.start + self.at)
        data = self.stream.read(max(0, min(len(buffer), self.length - self.at)))
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)


DESCRIPTION: dict[tuple[str, str], Any] = {
    **{
        (metadata.__name__, kind.__name__): kind
        for kind in (
            metadata.Metadata, metadata.TensorStorageMetadata, metadata.BytesStorageMetadata,
            metadata.ChunkStorageMetadata, metadata.TensorProperties, metadata.MetadataIndex, metadata.StorageMeta,
            metadata._MEM_FORMAT_ENCODING,
        )
    },
    (filesystem.__name__, "_StorageInfo"): filesystem._StorageInfo,
    ("torch", "Size"): torch.Size,
    ("torch.serialization", "_get_layout"): torch.serialization._get_layout,
    ("megatron.core.dist_checkpointing.strategies.torch", "MCoreMetadata"): metadata.Metadata,
    ("megatron.core.dist_checkpointing.strategies.torch", "MCoreSavePlan"): StandIn,
    **{
        ("torch.distributed.checkpoint.planner", name): StandIn
        for name in ("SavePlan", "WriteItem", "WriteItemType", "TensorWriteData", "BytesIOWriteData")
    },
}  # fmt: skip
"""The classes of which torch's description of a distributed checkpoint consists; how it was planned is not needed."""


class _Describer(pickle.Unpickler):
    """Unpickler that knows the classes of a description, and no others."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        super().__init__(stream)
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in DESCRIPTION:
            return DESCRIPTION[module, name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        raise _refused(self.path, f"{module}.{name}")


def read_description(path: Path) -> metadata.Metadata:
    """The `.metadata` of a distributed checkpoint: torch's own reader would run whatever this pickle names."""
    try:
        with open(path, "rb") as stream:
            found = _Describer(stream, path).load()
    except ModelError:
        raise
    except Exception as error:  # a damaged pickle raises almost anything
        raise ModelError(f"{path}: truncated or damaged ({_first_line(error)}); copy it again") from error
    if not isinstance(found, metadata.Metadata):
        raise ModelError(f"{path}: holds a {type(found).__name__}, not torch's description of a checkpoint")
    return found


def _refused(path: Path, name: str) -> ModelError:
    return ModelError(
        f"{path}: names {name}, which no weights need: refused, nothing was executed; do not trust this file, or save "
        "the checkpoint again without that object"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
