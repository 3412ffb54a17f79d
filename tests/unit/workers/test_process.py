"""What a child process sees, and how its end is read."""

import asyncio
import fcntl
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.settings import Settings
from app.tracing import Tracing
from workers.child import Order
from workers.children import Children, Timing
from workers.context import OUTBOX
from workers.process import Child, Ending, OnEvent, Stopping, child_env

BODY = """
import os, sys, time
from workers.context import StepProblem
def run(context):
    act = context.spec["act"]
    context.log("here")
    if act == "result": return {"seed": context.seed, "parent": os.getppid()}
    if act == "pid": return {"pid": os.getpid(), "cwd": os.getcwd()}
    while act == "flood": context.metric(again=1)
    if act == "nothing": return None
    if act == "problem": raise StepProblem("code", "detail", [{"pointer": "/a", "detail": "b"}])
    if act == "memory": raise MemoryError
    if act == "full": raise OSError(28, "No space left on device")
    if act == "ask": time.sleep(0.3)
    if act == "ask": return {"answers": [context.ask({"kind": "step", "number": n})["step"] for n in range(2)]}
    if act == "ask in vain": context.ask({"kind": "step", "number": -1})
    if act == "tick":
        for tick in range(100):
            try:
                context.progress(tick / 100)
            except Exception:
                pass
            time.sleep(0.1)
            context.path("kept").write_text(str(tick))
            context.checkpoint(context.path("kept"))
            context.metric(tick=tick)
    if act == "exit": sys.exit(3)
    if act == "vanish": os._exit(4)
"""


def placed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str) -> Order:
    """Write the body and return the order to run it."""
    package = tmp_path / "bodies"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "body.py").write_text(BODY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return Order(
        step="body", package="bodies", workdir=str(tmp_path), cache=str(tmp_path), spec={"act": act}, seed=7, attempt=1,
        device_lock=None,
    )  # fmt: skip


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str) -> tuple[Ending, list[dict[str, Any]]]:
    """Run a body in a real child."""
    order = placed(tmp_path, monkeypatch, act)
    events: list[dict[str, Any]] = []

    async def take(event: dict[str, Any]) -> None:
        events.append(event)

    return asyncio.run(followed(order, take, stall_timeout_s=30)), events


async def followed(
    order: Order, take: OnEvent, *, stall_timeout_s: float, drain_after_s: float | None = None
) -> Ending:
    """Run the body, perhaps until the worker drains."""
    draining = asyncio.Event()
    if drain_after_s is not None:
        asyncio.get_running_loop().call_later(drain_after_s, draining.set)
    tracing = Tracing(Settings(), "test")
    child = await Child.start(beat_s=0.1, silence_timeout_s=30, draining=draining)
    try:
        return await child.run(order, take, stall_timeout_s=stall_timeout_s, tracing=tracing)
    finally:
        await child.end()


@pytest.mark.parametrize(
    ("act", "code", "problem"),
    [
        ("problem", "code", True),
        ("memory", "out_of_memory", False),
        ("full", "storage_full", False),
        ("exit", "step_crashed", False),
        ("vanish", "step_crashed", False),
    ],
)
def test_an_end_without_a_result_has_a_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str, code: str, problem: bool
) -> None:
    ending, events = run(tmp_path, monkeypatch, act)
    assert (ending.result, ending.code, ending.problem, ending.retryable) == (
        None,
        code,
        problem,
        code == "storage_full",
    )
    assert events == [{"event": "log", "text": "here"}]


def test_a_result_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ending, _ = run(tmp_path, monkeypatch, "result")
    assert ending.result is not None and ending.result["seed"] == 7 and ending.code == ""


def test_a_body_may_return_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(tmp_path, monkeypatch, "nothing")[0].result == {}


def test_a_child_carries_out_one_order_after_another_and_outlives_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = placed(tmp_path, monkeypatch, "pid")
    tracing = Tracing(Settings(), "test")

    async def follow() -> tuple[list[Ending], bool]:
        child = await Child.start(beat_s=0.1, silence_timeout_s=30, draining=asyncio.Event())
        endings = []
        for act in ("pid", "pid", "problem"):
            folder = tmp_path / f"folder{len(endings)}"
            folder.mkdir()
            one = replace(order, workdir=str(folder), spec={"act": act})
            endings.append(await child.run(one, ignore, stall_timeout_s=30, tracing=tracing))
            folder.rmdir()
        return endings, child.lives

    (first, second, problem), lives = asyncio.run(follow())
    assert first.result is not None and second.result is not None
    assert first.result["pid"] == second.result["pid"]
    assert [Path(one.result["cwd"]).name for one in (first, second) if one.result] == ["folder0", "folder1"]
    assert problem.code == "code" and not lives


def test_children_keep_one_for_each_job_until_it_is_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = placed(tmp_path, monkeypatch, "pid")

    async def follow() -> list[int]:
        timing = Timing(stall_timeout_s=30, silence_timeout_s=30, beat_s=0.1, agent_silence_s=30)
        tracing = Tracing(Settings(), "test")
        children = Children(timing, tracing, draining=asyncio.Event(), stopping=asyncio.Event())
        pids = []
        for job_id in ("a", "b", "a", None, "b"):
            ending = await children.carry_out(order, ignore, lambda: None, job_id)
            assert ending.result is not None
            pids.append(ending.result["pid"])
        await children.release("a")
        pids.append((await children.carry_out(order, ignore, lambda: None, "a")).result["pid"])  # type: ignore[index]
        await children.release_all()
        return pids

    a, b, again_a, nobody, again_b, fresh_a = asyncio.run(follow())
    assert (again_a, again_b) == (a, b) and len({a, b, nobody, fresh_a}) == 4
    assert not any(Path(f"/proc/{pid}").exists() for pid in (a, b, nobody, fresh_a))


def test_a_child_that_never_stops_talking_is_ended_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = placed(tmp_path, monkeypatch, "flood")

    class Enough(Exception):
        pass

    async def follow() -> None:
        timing = Timing(stall_timeout_s=30, silence_timeout_s=30, beat_s=0.1, agent_silence_s=30)
        tracing = Tracing(Settings(), "test")
        children = Children(timing, tracing, draining=asyncio.Event(), stopping=asyncio.Event())
        checks = iter((True, False))

        def check() -> None:
            if not next(checks):
                raise Enough

        async with asyncio.timeout(20):
            with pytest.raises(Enough):
                await children.carry_out(order, ignore, check, "job")

    for _ in range(5):
        asyncio.run(follow())


async def ignore(event: dict[str, Any]) -> None:
    """Take no notice."""


def test_a_child_sees_no_setting_but_those_of_its_steps_and_no_secret() -> None:
    given = {
        "PATH": "/bin", "HOME": "/root", "LANG": "C", "OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "0",
        "SECATEUR_DATABASE_URL": "x", "SECATEUR_HOME": "x", "DATABASE_URL": "x", "PGPASSWORD": "x", "PGHOST": "x",
        "AWS_SESSION_TOKEN": "x", "MY_API_KEY": "x", "GITHUB_TOKEN": "x", "DB_PASSWORD": "x",
        "DBOS_SYSTEM_DATABASE_URL": "x", "SECATEUR_MEASURE_S": "2", "SECATEUR_TRAIN_PROCESSES": "2",
    }  # fmt: skip
    env = child_env(given)
    assert {*env} - {"PYTHONPATH", "PYTHONUNBUFFERED"} == {
        "PATH",
        "HOME",
        "LANG",
        "OMP_NUM_THREADS",
        "CUDA_VISIBLE_DEVICES",
        "SECATEUR_MEASURE_S",
        "SECATEUR_TRAIN_PROCESSES",
    }


def test_a_worker_loads_neither_torch_nor_the_solver() -> None:
    code = "import sys, workers.__main__; print({'torch', 'ortools'} & {*sys.modules})"
    root = Path(__file__).parent.parent.parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def asked(tmp_path: Path, act: str) -> tuple[Ending, list[bool]]:
    """Run a body that asks; also whether the device was free while it did."""
    package = tmp_path / "bodies"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "body.py").write_text(BODY)
    lock = tmp_path / "lock"
    order = Order(
        step="body", package="bodies", workdir=str(tmp_path), cache=str(tmp_path), spec={"act": act}, seed=7, attempt=1,
        device_lock=str(lock),
    )  # fmt: skip
    free: list[bool] = []

    async def take(event: dict[str, Any]) -> dict[str, Any] | None:
        with lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                free.append(True)
            except BlockingIOError:
                free.append(False)
        if event["event"] != "measure":
            return None
        await asyncio.sleep(1.2)  # longer than the silence that ends a child
        if event["number"] < 0:
            return {"problem": {"code": "measurement_failed", "detail": "no"}}
        return {"result": {"step": 10 + event["number"]}}

    return asyncio.run(followed(order, take, stall_timeout_s=1.0)), free


def test_a_question_waits_for_its_answer_however_long_and_leaves_the_device_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    ending, free = asked(tmp_path, "ask")
    assert ending.result == {"answers": [10, 11]}
    assert free == [False, True, True]


def test_an_answer_that_is_a_problem_ends_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    ending, _ = asked(tmp_path, "ask in vain")
    assert (ending.code, ending.problem) == ("measurement_failed", True)


def test_a_child_that_is_asked_to_drain_ends_with_a_checkpoint_whatever_its_body_catches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = placed(tmp_path, monkeypatch, "tick")
    kept, told = [], []

    async def take(event: dict[str, Any]) -> None:
        if event["event"] == "metric":
            told.append(str(event["values"]["tick"]))
        if event["event"] == "checkpoint":
            kept.append((tmp_path / OUTBOX / event["file"]).read_text())

    with pytest.raises(Stopping):
        asyncio.run(followed(order, take, stall_timeout_s=30, drain_after_s=1.5))
    assert kept and kept == told == [str(tick) for tick in range(len(kept))]
    assert (tmp_path / "kept").read_text() == kept[-1], "nothing was done after the last checkpoint"
