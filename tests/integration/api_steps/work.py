"""The job's only step; the job's name says how it behaves."""

import json
import time
from typing import Any

from workers.context import StepContext, StepProblem


def run(context: StepContext) -> dict[str, Any]:
    """Leave three files."""
    name = context.spec["job"]["name"]
    if name == "bad":
        raise StepProblem(
            "bad_budget", "The budget is below the minimum.", [{"pointer": "/budget_ms", "detail": "1 ms"}]
        )
    for tick in range(400 if name == "slow" else 4):
        time.sleep(0.05)
        context.metric(tick=tick)
        context.progress(tick / 400)
    context.path("plan.json").write_text(json.dumps({"value": 1}))
    context.path("report.json").write_text(json.dumps({"verdict": "met"}))
    context.path("report.html").write_text("<h1>met</h1><script>alert(1)</script>")
    return {"outcome": "budget_met", "summary": {"dense_ms": 2.0, "measured_ms": 1.0}}
