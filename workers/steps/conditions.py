"""What a job's user asks of layers and their masks, in the words of the knapsack."""

from collections.abc import Mapping, Sequence
from typing import Any

from lut.pattern import Pattern
from pruning.network import CouplingGroup, Operator
from workers.context import StepProblem


def conditions(
    costs: Sequence[Operator], groups: Sequence[CouplingGroup], job: Mapping[str, Any]
) -> tuple[list[str], dict[str, int]]:
    """Return the operators to keep dense and the least units by coupling group. Raises StepProblem for an unknown name.

    Layers go by the name of their module or their operator; a least width is in channels of the layer's output.
    """
    by_name = {operator.name: operator for operator in costs}
    sizes = {group.id: group for group in groups}
    errors: list[dict[str, str]] = []
    layers: list[str] = []
    widths: dict[str, int] = {}
    for index, name in enumerate(job["keep_dense"]):
        if (layer := name.replace(".", "_")) in by_name:
            layers.append(layer)
        else:
            errors.append({"pointer": f"/keep_dense/{index}", "detail": f"The network has no layer {name!r}."})
    for name, width in job["min_widths"].items():
        operator = by_name.get(name.replace(".", "_"))
        terms = ((name, 1),) if name in sizes else operator.c_out.terms if operator else ()
        fault = "" if terms or operator else f"The network has no layer or coupling group {name!r}."
        for group_id, times in terms:
            units = -(-width // times)
            widths[group_id] = max(units, widths.get(group_id, 0))
            if units > sizes[group_id].units:
                fault = f"{name} has {sizes[group_id].units * times} channels: it cannot keep {width}."
        if fault:
            errors.append({"pointer": f"/min_widths/{name}", "detail": fault})
    if errors:
        raise StepProblem("bad_condition", errors[0]["detail"], errors)
    return layers, {group_id: units for group_id, units in widths.items() if not sizes[group_id].frozen}


def patterns_on_offer(job: Mapping[str, Any]) -> list[Pattern]:
    """Return the patterns that the job's plan may use. Raises StepProblem for a name that describes none."""
    offered, errors = [], []
    for index, name in enumerate(job["pattern_choices"] if job["patterns"] != "none" else ()):
        try:
            offered.append(Pattern.parse(name))
        except ValueError as error:
            errors.append({"pointer": f"/pattern_choices/{index}", "detail": f"{error}."})
    if errors:
        raise StepProblem("bad_condition", errors[0]["detail"], errors)
    return offered
