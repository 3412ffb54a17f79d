"""Checks of uploads and of jobs before they are stored, and looks into tables: which body runs, with which files."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from workers.process import Ending
from workers.runner import Runner


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """One kind of inspection."""

    body: str
    files: Mapping[str, str] = field(default_factory=dict)
    """Name of each file that is placed, by the key of the payload that holds its SHA-256; a key may be left out."""
    outputs: tuple[str, ...] = ()
    """Files that it may leave, kept for whoever asked."""


INSPECTIONS = {
    "model": Inspection(body="inspect_model", files={"blob_sha256": "model"}),
    "dataset": Inspection(body="inspect_dataset", files={"blob_sha256": "dataset.zip"}),
    "job": Inspection(body="preflight"),
    "lut": Inspection(
        body="inspect_lut", files={"blob_sha256": "upload", "known_sha256": "known_table.json"}, outputs=("table.json",)
    ),
    "lut_file": Inspection(body="render_lut", files={"blob_sha256": "table.json"}, outputs=("file",)),
    "lut_pair": Inspection(body="compare_luts", files={"a_sha256": "a.json", "b_sha256": "b.json"}),
}


async def inspect(runner: Runner, kind: str, payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return `{"ok": ...}` with what the body found, or `{"problem": {"status", "code", "detail", "errors"}}`.

    The payload names blobs, or holds a job's spec; the body finds it under its `kind`.
    """
    inspection = INSPECTIONS.get(kind)
    if inspection is None:
        return _problem(422, "unknown_inspection", f"There is no inspection of kind {kind!r}.")
    try:
        spec, inputs = await asyncio.to_thread(_prepare, runner, kind, inspection, payload)
    except LookupError as error:
        return _problem(404, "not_found", str(error.args[0]))
    ending = await runner.run_inspection(inspection.body, spec, inputs, inspection.outputs)
    if ending.result is not None:
        return {"ok": ending.result}
    return _refusal(ending)


def _prepare(
    runner: Runner, kind: str, inspection: Inspection, payload: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    if kind == "job":
        view = runner.journal.preflight_view(payload["spec"], runner.profile)
        return {**view.spec, "results": {}}, view.inputs
    inputs = {name: payload[key] for key, name in inspection.files.items() if payload.get(key)}
    if not all(runner.blobs.exists(sha256) for sha256 in inputs.values()):
        raise LookupError("the uploaded file is not stored on this machine")
    return {kind: dict(payload), "limits": runner.journal.limits}, inputs


def _refusal(ending: Ending) -> dict[str, Any]:
    if ending.problem:
        return _problem(422, ending.code, ending.detail, [dict(error) for error in ending.errors])
    return _problem(500, ending.code, ending.detail)


def _problem(status: int, code: str, detail: str, errors: list[dict[str, str]] | None = None) -> dict[str, Any]:
    return {"problem": {"status": status, "code": code, "detail": detail, "errors": errors or []}}
