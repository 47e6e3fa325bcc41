"""Passage vectors on disk: numbered blocks that survive an interrupted run, and a manifest that is written last.

Beside `{manifest}.json` lies the folder `{manifest}/` of `blocks.py` with `00000.npy` (float16, one row per passage).
"""

import functools
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from retrotune.errors import DataError, RetrievalError, RetrotuneError
from retrotune.retrieval.blocks import check_sum, kept_or_made
from retrotune.retrieval.passages import PassageTable
from retrotune.runtime.devices import torch_devices
from retrotune.runtime.files import block_path, read_json, write_json
from retrotune.runtime.log import Progress, log_configuration, logger, setup_logging
from retrotune.study.config import RetrieverEntry
from retrotune.study.stages import EmbedParams

MANIFEST_KEYS = {"rows", "dim", "blocks", "retriever", "passages", "passages_sha256"}
ROWS_AT_ONCE = 8192
"""Vectors that a reader holds as float32: 12 MB at width 384."""


def embed_passages(
    params: EmbedParams, passages: str | Path, out_manifest: str | Path, devices: Sequence[str] | None = None
) -> None:
    """Make the vectors of all passages in blocks of the retriever's `block_passages`, then the manifest.

    `devices` are PyTorch's names, by default all GPUs or the CPU: with several, each has a process of its own.
    A block that is there is kept if it is whole and was made from the same texts by the same model; a damaged or
    outdated one is made again, with a line in the log. Raises `RetrievalError` naming the passage whose vector is zero
    or not finite.
    """
    from retrotune.retrieval.vectors.encoders import fingerprint
    from retrotune.retrieval.vectors.spread import share_blocks

    retriever, table = params.retriever, PassageTable(passages)
    folder = Path(out_manifest).with_suffix("")
    devices = devices or torch_devices()
    log_configuration({"passages": table.rows, **retriever.given(), "devices": ",".join(devices)})
    num_blocks = -(-table.rows // retriever.block_passages)
    if min(len(devices), num_blocks) > 1:
        share_blocks(passages, retriever, folder, devices, num_blocks)
    records = embed_blocks(passages, retriever, folder, devices[0])
    manifest = {
        "stage_version": params.version,
        "rows": table.rows,
        "dim": records[0]["dim"],
        "blocks": [{"rows": record["rows"], "sha256": record["sha256"]} for record in records],
        "retriever": fingerprint(retriever),
        "trust_remote_code": retriever.trust_remote_code,
        "passages": str(passages),
        "passages_sha256": table.sha256,
    }
    write_json(out_manifest, manifest)
    logger.info("%s: %d vectors of %d values in %d blocks", folder, table.rows, manifest["dim"], num_blocks)


def embed_blocks(
    passages: str | Path,
    retriever: RetrieverEntry,
    folder: str | Path,
    device: str | None = None,
    first: int = 0,
    every: int = 1,
) -> list[dict[str, Any]]:
    """Make or keep block `first` and every `every`-th after it below `folder`; their records. Raises alike."""
    from retrotune.retrieval.vectors.encoders import Encoder, fingerprint, load_encoder

    print_of_model = fingerprint(retriever)
    encoder: Encoder | None = None

    def vectors_of(texts: Mapping[str, list[str]]) -> Any:
        nonlocal encoder
        encoder = encoder or load_encoder(retriever, "passage", device)
        vectors = encoder.encode(encoder.passage_texts(texts["title"], texts["text"]))
        with np.errstate(over="ignore"):
            halves = vectors.astype(np.float16)
        check_vectors(halves, lambda row: f"{passages}: passage {texts['passage_id'][row]!r}")
        return halves

    records: list[dict[str, Any]] = []
    table = PassageTable(passages)
    size = retriever.block_passages
    own = sum(min(size, table.rows - start) for start in range(first * size, table.rows, every * size))
    with Progress("passages embedded", own) as shown:
        for number, batch in enumerate(table.blocks(size)):
            if number % every != first:
                continue
            texts = batch.to_pydict()
            path = block_path(folder, number, ".npy")
            made_from = _digest(print_of_model, texts)
            record, kept = kept_or_made(
                path, made_from, batch.num_rows, functools.partial(vectors_of, texts), _save, _check_block
            )
            if not kept:
                logger.info("block %s: %d vectors", path, batch.num_rows)
            shown.advance(batch.num_rows, kept)
            records.append(record)
    return records


def check_vectors(vectors: Any, name_of: Any) -> None:
    """Raise `RetrievalError` if a row of `vectors` [n, D] is zero or not finite; `name_of(row)` says whose it is."""
    finite = np.isfinite(vectors).all(axis=1)
    for fault, bad in (("not finite", ~finite), ("zero", finite & ~vectors.any(axis=1))):
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise RetrievalError(
                f"{name_of(row)} has a vector that is {fault} ({int(bad.sum())} such vectors in this block);"
                " check the passage's text and the retriever model"
            )


class Embeddings:
    """Finished vectors, every block verified on opening: size, type and checksum.

    Raises `RetrievalError` naming the block and the remedy if one is missing or damaged. `rows` vectors of width `dim`.
    """

    def __init__(self, manifest: str | Path) -> None:
        self.path = Path(manifest)
        try:
            self.manifest = read_json(manifest)
        except DataError as error:
            raise RetrievalError(f"{error}; run embed_passages to rebuild it") from error
        if not isinstance(self.manifest, dict) or not self.manifest.keys() >= MANIFEST_KEYS:
            raise RetrievalError(f"{manifest}: no manifest of embeddings; delete it and run embed_passages")
        self.rows: int = self.manifest["rows"]
        self.dim: int = self.manifest["dim"]
        self._blocks = []
        for number, record in enumerate(self.manifest["blocks"]):
            path = block_path(self.path.with_suffix(""), number, ".npy")
            try:
                self._blocks.append(_open_block(path, {**record, "dim": self.dim}))
            except RetrievalError as error:
                remedy = f"delete {self.path} and run embed_passages, which rebuilds only this block"
                raise RetrievalError(f"{error}; {remedy}") from error
        self._starts = np.cumsum([0, *(len(block) for block in self._blocks)])
        if self._starts[-1] != self.rows:
            found = f"has blocks of {self._starts[-1]} vectors for {self.rows} passages"
            raise RetrievalError(f"{manifest}: {found}; delete it and run embed_passages")

    def name_of(self, row: int) -> str:
        """What to call a passage in a message: its id where the passages are at hand, else its row."""
        passages = Path(self.manifest["passages"])
        if not passages.is_file():
            return f"{self.path}: passage row {row}"
        return f"{passages}: passage {PassageTable(passages).take([row])['passage_id'][0].as_py()!r}"

    def blocks(self, rows: int = ROWS_AT_ONCE, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, Any]]:
        """(first row, vectors [n, D] as float32) of rows `start` to `stop`, at most `rows` of them in memory."""
        stop = self.rows if stop is None else stop
        for first, block in zip(self._starts, self._blocks, strict=False):
            inside = range(max(start, int(first)), min(stop, int(first) + len(block)), rows)
            for row in inside:
                part = block[row - first : min(row + rows, inside.stop) - first]
                yield row, np.asarray(part, dtype=np.float32)

    def take(self, rows: Any) -> Any:
        """Vectors [n, D] of `rows`, as float32."""
        rows = np.asarray(rows, dtype=np.int64)
        vectors = np.empty((len(rows), self.dim), dtype=np.float32)
        numbers = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(numbers):
            inside = numbers == number
            vectors[inside] = self._blocks[number][rows[inside] - self._starts[number]]
        return vectors


def _digest(print_of_model: str, texts: Mapping[str, list[str]]) -> str:
    digest = hashlib.sha256(print_of_model.encode())
    for title, text in zip(texts["title"], texts["text"], strict=True):
        digest.update(f"{len(title)} {len(text)} {title}{text}".encode())
    return digest.hexdigest()


def _save(stream: BinaryIO, vectors: Any) -> dict[str, Any]:
    np.save(stream, vectors, allow_pickle=False)
    return {"dim": vectors.shape[1]}


def _check_block(path: Path, record: Mapping[str, Any]) -> None:
    """Raise `RetrievalError` if a block cannot be kept."""
    check_vectors(_open_block(path, record), lambda row: f"{path}: row {row}")


def _open_block(path: Path, record: Mapping[str, Any]) -> Any:
    """A block as a read-only memory map [rows, dim]; `RetrievalError` if it is not what its record says."""
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise RetrievalError(f"{path}: block is missing") from error
    except (OSError, ValueError, EOFError) as error:
        raise RetrievalError(f"{path}: block is damaged ({error})") from error
    expected = (record["rows"], record.get("dim"))
    if vectors.dtype != np.float16 or vectors.shape != expected:
        raise RetrievalError(f"{path}: block holds {vectors.dtype} {vectors.shape}, expected float16 {expected}")
    check_sum(path, record)
    return vectors


def main() -> int:
    """One of several processes of `share_blocks`: a task as JSON on standard input, an error on standard output."""
    setup_logging()
    task = json.load(sys.stdin)
    try:
        task["retriever"] = RetrieverEntry.model_validate(task["retriever"])
        embed_blocks(**task)
    except RetrotuneError as error:
        sys.stdout.write(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
