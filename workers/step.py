"""A job as a list of steps: the types that workers/pipeline.py is written in."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from workers.files import KNOWN_TABLES

Results = Mapping[str, Mapping[str, Any]]
"""What the steps that ran returned, by step name."""


def always(results: Results) -> bool:
    """Return True: the step runs whatever came before."""
    del results
    return True


@dataclass(frozen=True, kw_only=True)
class Output:
    """A file a step leaves in its scratch folder, kept as an artifact of the job."""

    name: str
    public: bool = False
    """True: users can download it. False: only later steps see it."""
    media_type: str = "application/octet-stream"
    optional: bool = False
    """False: a step that does not leave it fails the job."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One durable step: done once, in a child process; a crash repeats this step and none before it."""

    name: str
    """Module below `workers.steps` whose `run` is the body, and key of its result."""
    phase: str
    """Phase of the wire contract while it runs."""
    weight: float
    """Share of the job's time, in any unit; progress is weighted by it."""
    inputs: tuple[str, ...] = ()
    """Files it needs: `model`, `dataset.zip`, or an output of an earlier step."""
    optional_inputs: tuple[str, ...] = ()
    """Files it takes when there are any: optional outputs, `known_table.json` (stored for the job's profile)."""
    outputs: tuple[Output, ...] = ()
    exclusive: bool = False
    """True: holds the physical device while it runs (it measures or trains)."""
    when: Callable[[Results], bool] = always
    """Whether it runs at all, from the results before it; a pure function."""


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A job's steps in order. Step names and output names are unique."""

    steps: tuple[Step, ...]
    package: str = "workers.steps"
    """Package the step modules are found in."""

    def __post_init__(self) -> None:
        made = {"model", "dataset.zip", *KNOWN_TABLES}
        for step in self.steps:
            if unknown := {*step.inputs, *step.optional_inputs} - made:
                raise ValueError(f"step {step.name} needs {sorted(unknown)}, which no step before it makes")
            made |= {output.name for output in step.outputs}
        names = [step.name for step in self.steps]
        if len(set(names)) < len(names):
            raise ValueError(f"step names are not unique: {names}")

    def progress(self, index: int, fraction: float) -> float:
        """Return the job's progress, 0 to 1, when `fraction` of step `index` is done."""
        total = sum(step.weight for step in self.steps)
        done = sum(step.weight for step in self.steps[:index])
        return (done + self.steps[index].weight * fraction) / total if index < len(self.steps) else 1.0
