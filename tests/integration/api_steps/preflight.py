"""Says what it was asked."""

from typing import Any

from workers.context import StepContext


def run(context: StepContext) -> dict[str, Any]:
    """A preflight with one warning that names the classes."""
    detail = ",".join(map(str, context.spec["job"]["classes"]))
    return {
        "ok": True,
        "blockers": [{"severity": "warning", "code": "kept_dense", "detail": detail, "layer": "stem"}],
        "num_coupling_groups": 3,
        "prunable_latency_share": 0.5,
        "dense_ms": None,
        "min_achievable_ms": None,
    }
