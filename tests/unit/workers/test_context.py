"""What a step body is given."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from workers.context import OUTBOX, StepContext, jsonable

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner))


@given(values)
def test_whatever_a_step_says_becomes_strict_json(value: Any) -> None:
    json.loads(json.dumps(jsonable(value), allow_nan=False))


def test_arrays_become_lists_and_what_is_not_finite_null() -> None:
    assert jsonable({"a": np.array([1.5, math.inf]), "b": np.float32(0.5), 3: (math.nan,)}) == {
        "a": [1.5, None],
        "b": 0.5,
        "3": [None],
    }


def test_a_checkpoint_is_a_copy_taken_at_once(tmp_path: Path) -> None:
    events: list[Any] = []
    context = StepContext(workdir=tmp_path, cache=tmp_path, spec={}, seed=0, attempt=1, emit=events.append)
    path = context.path("state/epoch.pt")
    path.parent.mkdir()
    path.write_bytes(b"one")
    context.checkpoint(path, epoch=1)
    path.write_bytes(b"two")
    (event,) = events
    assert (event["name"], event["values"]) == ("state/epoch.pt", {"epoch": 1})
    assert (tmp_path / OUTBOX / event["file"]).read_bytes() == b"one"


def test_progress_stays_between_nothing_and_all(tmp_path: Path) -> None:
    events: list[Any] = []
    context = StepContext(workdir=tmp_path, cache=tmp_path, spec={}, seed=0, attempt=1, emit=events.append)
    for fraction in (-1, 0.25, 7):
        context.progress(fraction)
    assert [event["fraction"] for event in events] == [0.0, 0.25, 1.0]
