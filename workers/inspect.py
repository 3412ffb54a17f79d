"""Checks of uploads and of jobs before they are stored: which body runs, with which files."""

import asyncio
from collections.abc import Mapping
from typing import Any

from workers.process import Ending
from workers.runner import Runner

BODIES = {"model": "inspect_model", "dataset": "inspect_dataset", "job": "preflight"}
FILES = {"model": "model", "dataset": "dataset.zip"}


async def inspect(runner: Runner, kind: str, payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return `{"ok": ...}` with what the body found, or `{"problem": {"status", "code", "detail", "errors"}}`.

    `kind` is `model`, `dataset` (the payload names the uploaded blob) or `job` (the payload holds the job's spec).
    """
    if kind not in BODIES:
        return _problem(422, "unknown_inspection", f"There is no inspection of kind {kind!r}.")
    try:
        spec, inputs = await asyncio.to_thread(_prepare, runner, kind, payload)
    except LookupError as error:
        return _problem(404, "not_found", str(error.args[0]))
    ending = await runner.run_inspection(BODIES[kind], spec, inputs)
    if ending.result is not None:
        return {"ok": ending.result}
    return _refusal(ending)


def _prepare(runner: Runner, kind: str, payload: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    if kind == "job":
        view = runner.journal.preflight_view(payload["spec"], runner.profile)
        return {**view.spec, "results": {}}, view.inputs
    sha256 = payload["blob_sha256"]
    if not runner.blobs.exists(sha256):
        raise LookupError("the uploaded file is not stored on this machine")
    return {kind: dict(payload), "limits": runner.journal.limits}, {FILES[kind]: sha256}


def _refusal(ending: Ending) -> dict[str, Any]:
    if ending.problem:
        return _problem(422, ending.code, ending.detail, [dict(error) for error in ending.errors])
    return _problem(500, ending.code, ending.detail)


def _problem(status: int, code: str, detail: str, errors: list[dict[str, str]] | None = None) -> dict[str, Any]:
    return {"problem": {"status": status, "code": code, "detail": detail, "errors": errors or []}}
