"""A pipeline is checked when it is written down."""

import ast
from pathlib import Path

import pytest

from workers.inspect import INSPECTIONS
from workers.pipeline import BUILD, PRUNE
from workers.step import Output, Pipeline, Step


def test_a_step_can_only_need_what_is_made_before_it() -> None:
    make = Step(name="make", phase="x", weight=1, outputs=(Output(name="a"),))
    use = Step(name="use", phase="x", weight=1, inputs=("a", "model"))
    Pipeline(steps=(make, use))
    with pytest.raises(ValueError, match="use needs \\['a'\\]"):
        Pipeline(steps=(use, make))
    with pytest.raises(ValueError, match="not unique"):
        Pipeline(steps=(make, make))


def test_progress_is_weighted_by_the_steps() -> None:
    pipeline = Pipeline(steps=tuple(Step(name=str(w), phase="x", weight=w) for w in (1, 3, 4)))
    assert [pipeline.progress(0, 1.0), pipeline.progress(1, 0.5), pipeline.progress(2, 1.0)] == [0.125, 0.3125, 1.0]


@pytest.mark.parametrize(
    "name",
    [*(step.name for step in (*PRUNE.steps, *BUILD.steps)), *(inspection.body for inspection in INSPECTIONS.values())],
)
def test_every_step_has_a_body(name: str) -> None:
    # Read, not imported: the bodies load torch.
    path = Path(*PRUNE.package.split("."), f"{name}.py")
    tree = ast.parse((Path(__file__).parent.parent.parent.parent / path).read_text())
    (body,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "run"]
    assert [argument.arg for argument in body.args.args] == ["context"]
