"""Latency tables as CSV, in two dialects that are told apart by their header.

*Full*: a column for each field of a signature, then `cin,cout,latency_us,p90_us,num_samples`: a measured table, whole.
*Coarse*: `batch,cin,cout,fmap_in,kernel,stride,groups,latency_us`, as published tables have it (`lut.coarse` says how it
is looked up). A row with `groups` = `cin` = `cout` > 1 is a depthwise convolution. Further columns are passed over.
"""

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from statistics import median_low

from lut.entry import MOST_POINTS, Entry, Points, add_point, positive, signature_from_json, whole
from lut.profile import DeviceProfile
from lut.signature import OpSignature
from lut.table import LatencyTable

COARSE = ("batch", "cin", "cout", "fmap_in", "kernel", "stride", "groups", "latency_us")
_PAIRS = ("kernel", "stride", "padding", "dilation")
_FLAGS = {"0": False, "1": True}
_WHOLE = re.compile(r"[0-9]{1,9}")
_NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?")
_SIGNATURE = tuple(
    column
    for field in fields(OpSignature)
    for column in ((f"{field.name}_h", f"{field.name}_w") if field.name in _PAIRS else (field.name,))
)
FULL = ("batch", *_SIGNATURE, "cin", "cout", "latency_us", "p90_us", "num_samples")

Row = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class CsvProfile:
    """What a CSV does not say of its device."""

    hardware: str
    runtime: str = "imported"
    runtime_version: str = ""
    threads: int = 1
    batch: int | None = None
    """Rows of this batch are read; None where the file has one batch only."""
    dtype: str = "fp32"
    layout: str = "nchw"
    huge_pages: bool = False


def from_csv(text: str, about: CsvProfile) -> LatencyTable:
    """Return the table in a CSV file. Raises ValueError with the line and what is wrong with it.

    Its stair is the step at which it was measured: of each operator the greatest common divisor of the output channels,
    and of those the median.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, restkey="", restval="")
    header = tuple(reader.fieldnames or ())
    full = set(FULL) <= set(header)
    if not full and not set(COARSE) <= set(header):
        raise ValueError(f"the header must name {','.join(COARSE)}, or the columns of an exported table")
    if len(set(header)) < len(header):
        raise ValueError("the header names a column twice")
    entries: dict[OpSignature, Points] = {}
    batches: set[int] = set()
    wanted = about.batch
    for line, row in _rows(reader):
        try:
            batch = _whole(row, "batch")
            batches.add(batch)
            wanted = wanted or batch
            if batch == wanted:
                add_point(entries, *(_full(row) if full else _coarse(row)))
        except ValueError as error:
            raise ValueError(f"line {line}: {error}") from None
    batch = _only_batch(batches, about.batch)
    profile = DeviceProfile(
        hardware=about.hardware, runtime=about.runtime, runtime_version=about.runtime_version,
        threads=about.threads, batch=batch, dtype=about.dtype, layout=about.layout,
        huge_pages=about.huge_pages,
    )  # fmt: skip
    step = median_low(math.gcd(*(c_out for _, c_out in points)) for points in entries.values())
    return LatencyTable(profile=profile, entries=entries, step=step, coarse=not full)


def to_csv(table: LatencyTable) -> str:
    """Return the table as CSV, coarse where the table is; `from_csv` gives its entries back."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COARSE if table.coarse else FULL)
    for signature, points in sorted(table.entries.items()):
        for (c_in, c_out), entry in sorted(points.items()):
            if table.coarse:
                groups = c_out if signature.kind == "depthwise" else signature.groups
                key = (signature.height, signature.kernel[0], signature.stride[0], groups)
                writer.writerow((table.profile.batch, c_in, c_out, *key, repr(entry.p50_us)))
            else:
                measured = (repr(entry.p50_us), repr(entry.p90_us), entry.num_samples)
                writer.writerow((table.profile.batch, *_cells(signature), c_in, c_out, *measured))
    return out.getvalue()


def _rows(reader: Iterable[dict[str, str]]) -> Iterator[tuple[int, Row]]:
    rows = iter(reader)
    line = 1
    while True:
        line += 1
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise ValueError(f"line {line}: {error}") from None
        if row is None:
            return
        if line > MOST_POINTS:
            raise ValueError(f"a latency table holds {MOST_POINTS:,} entries at most")
        if "" in row:
            raise ValueError(f"line {line}: more cells than columns")
        yield line, row


def _only_batch(batches: set[int], wanted: int | None) -> int:
    if wanted is not None and wanted in batches:
        return wanted
    found = ", ".join(map(str, sorted(batches)[:20])) or "no rows"
    if wanted is not None:
        raise ValueError(f"the file has no rows of batch {wanted}; it has {found}")
    if len(batches) != 1:
        raise ValueError(f"say which batch to read: the file has {found}")
    return next(iter(batches))


def _coarse(row: Row) -> tuple[OpSignature, tuple[int, int], Entry]:
    size, kernel, stride, groups = (_whole(row, name) for name in ("fmap_in", "kernel", "stride", "groups"))
    c_in, c_out = _whole(row, "cin"), _whole(row, "cout")
    depthwise = groups > 1 and groups == c_in == c_out
    if c_in % groups or c_out % groups:
        raise ValueError(f"{groups} groups do not divide {c_in} -> {c_out} channels")
    signature = OpSignature(
        kind="depthwise" if depthwise else "conv", height=size, width=size, kernel=(kernel, kernel),
        stride=(stride, stride), padding=(kernel // 2, kernel // 2), groups=1 if depthwise else groups,
    )  # fmt: skip
    latency_us = positive(_number(row, "latency_us"), "latency_us")
    return signature, (c_in, c_out), Entry(p50_us=latency_us, p90_us=latency_us, num_samples=1)


def _full(row: Row) -> tuple[OpSignature, tuple[int, int], Entry]:
    values: dict[str, object] = {}
    for field in fields(OpSignature):
        name = field.name
        if name in _PAIRS:
            values[name] = [_whole(row, f"{name}_h", least=0), _whole(row, f"{name}_w", least=0)]
        elif name in ("bias", "residual"):
            values[name] = _FLAGS.get(row[name], row[name])
        else:
            values[name] = row[name] if name in ("kind", "activation", "pattern") else _whole(row, name)
    entry = Entry(
        p50_us=positive(_number(row, "latency_us"), "latency_us"),
        p90_us=positive(_number(row, "p90_us"), "p90_us"),
        num_samples=_whole(row, "num_samples"),
    )
    return signature_from_json(values), (_whole(row, "cin"), _whole(row, "cout")), entry


def _cells(signature: OpSignature) -> list[object]:
    cells: list[object] = []
    for field in fields(OpSignature):
        value = getattr(signature, field.name)
        cells += list(value) if field.name in _PAIRS else [int(value) if isinstance(value, bool) else value]
    return cells


def _whole(row: Row, name: str, *, least: int = 1) -> int:
    if not _WHOLE.fullmatch(row[name] or "") or int(row[name]) < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {str(row[name])[:40]!r}")
    return whole(int(row[name]), name) if least else int(row[name])


def _number(row: Row, name: str) -> float:
    if not _NUMBER.fullmatch(row[name] or ""):
        raise ValueError(f"{name} must be a number, got {str(row[name])[:40]!r}")
    return float(row[name])
