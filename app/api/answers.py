"""Whether what an agent measured answers what it was asked."""

import json
from collections.abc import Mapping
from typing import Any

from app.errors import ApiProblem
from app.store.models import MeasurementRow
from secateur.agent_schemas import MeasuredTable, MeasurementResult


def check_result(row: MeasurementRow, said: MeasurementResult) -> None:
    """Raise 422 unless the result is of the kind that was asked for, and a table or a list of latencies fits the question."""
    if said.error is not None:
        return
    if getattr(said, row.kind) is None:
        raise _refused(f"A measurement of kind {row.kind!r} was asked for.")
    if said.table is not None:
        check_table(row, said.table)
    if said.networks is not None and len(said.networks) != len(row.files):
        raise _refused(f"{len(row.files)} networks were to be timed, not {len(said.networks)}.")


def check_table(row: MeasurementRow, table: MeasuredTable) -> None:
    """Raise 422 unless the table has the profile that was asked for and only points that were."""
    if row.kind != "table":
        raise _refused(f"A measurement of kind {row.kind!r} was asked for, no table.")
    if table.profile.model_dump() != row.profile:
        raise _refused("The table belongs to another device profile.")
    asked: dict[str, list[Mapping[str, Any]]] = {}
    for request in row.payload["requests"]:
        asked.setdefault(_key(request["signature"]), []).append(request)
    seen = set()
    for entries in table.entries:
        key = _key(entries.signature)
        if key not in asked or key in seen:
            raise _refused(f"Nobody asked for entries of {key[:300]}, or they came before.")
        seen.add(key)
        points = [(c_in, c_out) for c_in, c_out, *_ in entries.points]
        unasked = [point for point in points if not any(_asks(request, *point) for request in asked[key])]
        if unasked or len(set(points)) < len(points):
            where = f"{unasked[0][0]} -> {unasked[0][1]} of" if unasked else "a point twice in"
            raise _refused(f"Nobody asked for {where} {key[:300]}.")


def _asks(request: Mapping[str, Any], c_in: int, c_out: int) -> bool:
    return c_in in request["c_ins"] and c_out in request["c_outs"] and (c_in == c_out or not request["paired"])


def _key(signature: Mapping[str, Any]) -> str:
    return json.dumps(signature, sort_keys=True)


def _refused(detail: str) -> ApiProblem:
    return ApiProblem("result_refused", detail)
