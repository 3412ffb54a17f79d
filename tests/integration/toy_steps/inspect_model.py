"""Accepts a model unless it says bad."""

from typing import Any

from workers.context import StepContext, StepProblem


def run(context: StepContext) -> dict[str, Any]:
    """Answer with the size of the file."""
    content = context.path("model").read_bytes()
    if content == b"bad":
        raise StepProblem("wrong_weights", "These are no weights.", [{"pointer": "file", "detail": "bad"}])
    return {"size": len(content), "arch": context.spec["model"]["arch"]}
