"""Counts the parameters of a safetensors header."""

import json
from typing import Any

from workers.context import StepContext, StepProblem


def run(context: StepContext) -> dict[str, Any]:
    """Read the header; a tensor `fc.weight` of shape [outputs, ...] must be there."""
    content = context.path("model").read_bytes()
    length = int.from_bytes(content[:8], "little")
    shapes = {name: value["shape"] for name, value in json.loads(content[8 : 8 + length]).items()}
    if "boom" in shapes:
        raise ZeroDivisionError("a fault of the worker")
    if "fc.weight" not in shapes:
        raise StepProblem(
            "wrong_weights", "fc.weight is missing.", [{"pointer": "file", "detail": "fc.weight is missing"}]
        )
    num_parameters = sum(rows * columns for rows, columns in shapes.values())
    return {"num_parameters": num_parameters, "num_outputs": shapes["fc.weight"][0], "input_shape": None}
