"""Every malicious upload is refused with its code, as the API and then a worker look at it, soon and in little memory."""

import resource
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from app.errors import ApiProblem
from app.pieces import CHECK_HEAD
from app.settings import Settings
from app.sniff import HEAD_BYTES, file_kind
from tests.malicious import Malicious, listed
from workers.context import StepContext, StepProblem
from workers.steps import inspect_dataset, inspect_model
from workers.worker import LIMITS

MOST_S = 20.0
MOST_MEMORY_BYTES = 2 << 30
ALL = listed()


def test_there_are_enough_of_them_and_each_has_a_name() -> None:
    assert len(ALL) >= 60 and len({one.name for one in ALL}) == len(ALL)


@pytest.fixture(scope="module")
def inspector() -> Iterator[ProcessPoolExecutor]:
    """A process of its own, as workers have: what runs out of memory there takes no other test along."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield pool


@pytest.mark.parametrize("number", range(len(ALL)), ids=[one.name for one in ALL])
def test_it_is_refused_with_its_code(inspector: ProcessPoolExecutor, number: int, tmp_path: Path) -> None:
    code, took_s = inspector.submit(judged, number, tmp_path).result()
    assert code == ALL[number].code
    assert took_s < MOST_S
    assert [path.name for path in tmp_path.iterdir()] in ([], ["model"], ["dataset.zip"])


def judged(number: int, folder: Path) -> tuple[str, float]:
    """The code with which it is refused, and the processor time in seconds that it takes."""
    content = ALL[number].build()
    began = time.process_time()
    with bounded():
        code = verdict(ALL[number], content, folder)
    return code, time.process_time() - began


def verdict(one: Malicious, content: bytes, folder: Path) -> str:
    """The code with which it is refused."""
    head = content[:HEAD_BYTES]
    try:
        CHECK_HEAD[one.purpose](head)
    except ApiProblem as problem:
        return problem.problem.code
    if one.purpose == "model" and (one.arch == "onnx") != (file_kind(head) == "onnx"):
        return "unsupported_format"
    settings = Settings()
    limits = {name: getattr(settings, name) for name in LIMITS} | dict(one.limits)
    payload: dict[str, Any] = {"arch": one.arch} if one.purpose == "model" else {}
    name = "model" if one.purpose == "model" else "dataset.zip"
    (folder / name).write_bytes(content)
    context = StepContext(
        workdir=folder, cache=folder, spec={one.purpose: payload, "limits": limits}, seed=0, attempt=1,
        emit=lambda event: None,
    )  # fmt: skip
    try:
        said = (inspect_model if one.purpose == "model" else inspect_dataset).run(context)
    except StepProblem as problem:
        return problem.code
    return f"accepted: {said}"


@contextmanager
def bounded() -> Iterator[None]:
    """At most so much memory more than now."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + MOST_MEMORY_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
