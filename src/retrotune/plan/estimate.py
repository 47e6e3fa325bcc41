"""The plan itself: for each collection a row per stage with disk, private memory and time, and what they rest on."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from retrotune.plan import formulas
from retrotune.plan.collections import Collection, Shape
from retrotune.plan.formulas import Factory, parse_factory
from retrotune.plan.rates import Rates
from retrotune.retrieval.search.factory import Settings, settle
from retrotune.study.config import IndexEntry

GROUP_ROWS = 50_000
"""Passages in memory while a parquet file is written."""
PARQUET_SHARE = 0.62
"""Bytes of a parquet file of English passages over those of their texts."""
PASSAGE_KEYS_BYTES = 40
"""Ids and title of a passage beside its text, in a parquet file."""
HIT_BYTES = 16
"""Rank, row and score of one neighbor in a cache that holds no texts."""
TORCH_BYTES = 450_000_000
"""A Python process with PyTorch and transformers, measured."""
BM25_BYTES_PER_WORD = 27
"""Memory of BM25 over passages per word of these: texts, words as numbers, weights. Measured."""
QUERIES_AT_ONCE = 1024


@dataclass(frozen=True)
class Row:
    """One stage of one collection: bytes on disk, bytes of private memory, seconds; `rests_on` names the rates used."""

    collection: str
    stage: str
    what: str
    disk: float
    memory: float
    seconds: float
    rests_on: str


def plan_rows(collections: Iterable[Collection], rates: Rates) -> list[Row]:
    """Rows of all collections, in the order of the workflow."""
    return [row for collection in collections for row in _rows(collection, rates)]


def _rows(collection: Collection, rates: Rates) -> Iterable[Row]:
    name, count, text = collection.name, collection.passages, collection.text_bytes
    parquet = count * (PARQUET_SHARE * text + PASSAGE_KEYS_BYTES)
    chunking = min(count, GROUP_ROWS) * 4 * text
    seconds = count * collection.words / 100 / rates["chunking"].value
    yield Row(name, "chunk", f"{count:,} passages", parquet, formulas.PROCESS_BYTES + chunking, seconds, "chunking")
    shape = collection.shape
    if shape is None:
        yield _without_vectors(collection, rates)
        return
    yield _embedding(collection, shape, rates)
    for index, entry in collection.indexes.items():
        settings = settle(entry, count)
        factory = parse_factory(settings.factory, shape.width)
        yield _building(collection, index, entry, settings, factory, rates)
        yield _searching(collection, index, settings, factory, shape, rates)
    if not collection.indexes and collection.queries:
        work = collection.queries * collection.tokens / 8 * shape.operations_per_token(collection.tokens / 8)
        memory = TORCH_BYTES + encoder_bytes(shape, collection.batch_tokens)
        what = f"{collection.queries:,} queries, own documents"
        seconds = work / rates["encoder"].value
        yield Row(name, "search", what, _cache_bytes(collection), memory, seconds, "encoder")


def _without_vectors(collection: Collection, rates: Rates) -> Row:
    """The search of BM25, of gold passages (those that BM25 finds and that hold the answer), or of random ones."""
    count, queries = collection.passages, collection.queries
    what, rests_on = "random passages, nothing is searched", "nothing"
    memory, seconds = float(formulas.PROCESS_BYTES), 0.0
    if collection.kind != "random":
        what = "BM25 in memory, no vectors" + (", then the answer in its passages" if collection.kind == "gold" else "")
        memory += count * collection.words * BM25_BYTES_PER_WORD
        seconds = count * collection.words / rates["words"].value + queries * count / rates["scores"].value
        rests_on = "words, scores"
    asked = f"{queries:,} queries, {collection.top_k} each" if queries else "questions not known yet"
    return Row(collection.name, "search", f"{what}: {asked}", _cache_bytes(collection), memory, seconds, rests_on)


def _embedding(collection: Collection, shape: Shape, rates: Rates) -> Row:
    count, tokens = collection.passages, collection.tokens
    block = min(count, collection.block_passages)
    memory = TORCH_BYTES + encoder_bytes(shape, collection.batch_tokens)
    memory += block * (3 * collection.text_bytes + 4 * tokens + 100 + 6 * shape.width)
    seconds = count * tokens * shape.operations_per_token(tokens) / rates["encoder"].value
    what = f"{shape.source}, {tokens:.0f} tokens each"
    return Row(collection.name, "embed", what, 2.0 * count * shape.width, memory, seconds, "encoder")


def encoder_bytes(shape: Shape, batch_tokens: int) -> float:
    """Memory of an encoder in float32 and of one batch: its feed-forward layer's input and output, and four copies."""
    return 4 * shape.parameters + 4.0 * batch_tokens * (2 * shape.inner + 6 * shape.width)


def _building(
    collection: Collection, index: str, entry: IndexEntry, settings: Settings, factory: Factory, rates: Rates
) -> Row:
    count = collection.passages
    disk = formulas.index_bytes(factory, count, settings.num_shards)
    memory = formulas.build_peak(factory, count, settings.training_vectors, settings.num_shards)
    reading = 2.0 * count * factory.dim / rates["read"].value
    if factory.exact:
        return Row(collection.name, "index", f"{index}: no file", disk, memory, reading, "read")
    trained = formulas.training_work(factory, settings.training_vectors)
    products, comparisons, steps = formulas.adding_work(factory, count)
    seconds = reading + (products + trained[0]) / rates["matrix"].value
    seconds += (comparisons + trained[1]) / rates["codes"].value + steps * 4 * factory.inner_dim / rates["graph"].value
    shards = f", {settings.num_shards} shards" if settings.num_shards > 1 else ""
    per_vector = f", {formulas.bytes_per_vector(factory):.0f} B/vector"
    names = ["read"]
    names += ["matrix"] * (products + trained[0] > 0) + ["codes"] * (comparisons > 0) + ["graph"] * (steps > 0)
    what = f"{settings.factory}{shards}{per_vector}"
    return Row(collection.name, "index", what, disk, memory, seconds, ", ".join(names))


def _searching(
    collection: Collection, index: str, settings: Settings, factory: Factory, shape: Shape, rates: Rates
) -> Row:
    count, queries = collection.passages, collection.queries
    products, vectors, codes, steps = formulas.search_work(factory, count, settings.nprobe, settings.ef_search)
    one = products / rates["matrix"].value + vectors / rates["scan"].value + codes / rates["scan_codes"].value
    one += steps * 4 * factory.inner_dim / rates["graph"].value
    one += 2.0 * settings.rerank * factory.dim / rates["read"].value
    tokens = collection.tokens / 8 if collection.texts_in_cache else collection.tokens
    one += tokens * shape.operations_per_token(tokens) / rates["encoder"].value
    seconds = queries * one
    names = ["encoder", *(["matrix"] * (products > 0)), *(["scan"] * (vectors > 0)), *(["scan_codes"] * (codes > 0))]
    names += ["graph"] * (steps > 0)
    if factory.exact:  # every vector is read once for all queries
        seconds += 2.0 * count * factory.dim / rates["read"].value
        names.append("read")
    memory = TORCH_BYTES + encoder_bytes(shape, collection.batch_tokens)
    memory += formulas.search_memory(factory, count, settings.num_shards)
    asked = f"{queries:,} queries, {collection.top_k} each" if queries else "questions not known yet"
    what = f"{index}: {asked}, {1000 * one:.3g} ms/query"
    return Row(collection.name, "search", what, _cache_bytes(collection), memory, seconds, ", ".join(names))


def _cache_bytes(collection: Collection) -> float:
    text = PARQUET_SHARE * collection.text_bytes + PASSAGE_KEYS_BYTES if collection.texts_in_cache else 0
    return collection.queries * collection.top_k * (HIT_BYTES + text)


def as_json(rows: Iterable[Row], rates: Rates) -> dict[str, Any]:
    """The plan with its rates, for machines."""
    return {"rates": {name: asdict(rate) for name, rate in rates.items()}, "rows": [asdict(row) for row in rows]}


def as_table(rows: Iterable[Row], rates: Rates, counted: Mapping[str, str]) -> str:
    """The plan for readers: a block per collection, then the rates that it rests on. `counted` as `Collection`'s."""
    lines: list[str] = []
    current, used = None, set[str]()
    for row in rows:
        if row.collection != current:
            current = row.collection
            lines += ["", f"{current} (count: {counted[current]})"]
            lines.append(f"  {'stage':7}{'disk':>10}{'memory':>10}{'time':>15}  what; time rests on")
        used.update(row.rests_on.split(", "))
        sizes = f"{human_bytes(row.disk):>10}{human_bytes(row.memory):>10}{human_seconds(row.seconds):>15}"
        lines.append(f"  {row.stage:7}{sizes}  {row.what}; {row.rests_on}")
    if not used:
        return "Nothing can be estimated yet."
    lines += ["", "Rates:"]
    lines += [
        f"  {name:11}{rate.value:9.2e} {rate.unit} ({rate.source})" for name, rate in rates.items() if name in used
    ]
    lines.append("Memory is private memory: files that are mapped do not count, since the system can drop them.")
    return "\n".join(lines).lstrip("\n")


def human_bytes(count: float) -> str:
    """Bytes with a decimal unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB" if count < 1000 else f"{count:,.0f} TB"


def human_seconds(seconds: float) -> str:
    """A time in the unit that fits."""
    for unit, size in (("s", 60), ("min", 60), ("h", 48), ("days", 730)):
        if seconds < size:
            return f"{seconds:.3g} {unit}"
        seconds /= {"s": 60, "min": 60, "h": 24, "days": 365}[unit]
    return f"{seconds:,.3g} years" if seconds < 1000 else f"{seconds:,.0f} years"
