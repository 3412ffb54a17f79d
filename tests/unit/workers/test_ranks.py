"""The processes of a team: started by the child, and never there without it."""

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from app.settings import Settings
from app.tracing import Tracing
from tests.toy_job import ToyJob, toy_job, write_inputs
from workers.child import Order
from workers.context import Drained
from workers.process import Child, Ending, OnEvent
from workers.steps import finetune

BODY = """
import os, sys, time
import torch
from workers.ranks import team_of
def run(context):
    act = context.spec["act"]
    with team_of(context, __name__) as team:
        found = part(context, team)
    return {"found": found, "accelerate": "accelerate" in sys.modules}
def follow(context, team):
    part(context, team)
def part(context, team):
    act = context.spec["act"]
    pids = team.gathered(torch.tensor([os.getpid()])).tolist()
    context.metric(pids=pids, threads=torch.get_num_threads())
    if act == "raise" and not team.leads: raise LookupError("lost")
    if act == "segfault" and not team.leads: os.kill(os.getpid(), 11)
    while act != "meet":
        time.sleep(0.05)
        if act != "alone": team.gathered(torch.zeros(1))
    return pids
"""


@pytest.fixture
def order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Order:
    """What a child is ordered to do: a body whose ranks meet, and then wait for each other for ever or do what `act` says."""
    package = tmp_path / "bodies"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "body.py").write_text(BODY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("SECATEUR_TRAIN_PROCESSES", "2")
    return Order(
        step="body", package="bodies", workdir=str(tmp_path), cache=str(tmp_path), spec={"act": "meet"}, seed=7, attempt=1,
        device_lock=None,
    )  # fmt: skip


@asynccontextmanager
async def started() -> AsyncIterator[Child]:
    child = await Child.start(beat_s=0.1, silence_timeout_s=30, draining=asyncio.Event())
    try:
        yield child
    finally:
        await child.end()


async def carried_out(child: Child, order: Order, take: OnEvent) -> Ending:
    return await child.run(order, take, stall_timeout_s=60, tracing=Tracing(Settings(), "test"))


async def gone(*pids: int) -> bool:
    """Wait for the end of processes, for ten seconds at most."""
    for _ in range(100):
        if not any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids):
            return True
        await asyncio.sleep(0.1)
    return False


def ending_of(order: Order, act: str, kill: int | None = None) -> Ending:
    """Return how a step ends in which rank `kill` is killed once all have met."""
    pids: list[int] = []

    async def take(event: dict[str, Any]) -> None:
        if event["event"] == "metric":
            pids.extend(event["values"]["pids"])
            if kill is not None:
                os.kill(pids[kill], signal.SIGKILL)

    async def follow() -> Ending:
        async with started() as child:
            ending = await carried_out(child, replace(order, spec={"act": act}), take)
            assert len(pids) == 2 and await gone(*pids)
            return ending

    return asyncio.run(follow())


@pytest.mark.parametrize("rank", [0, 1])
def test_a_step_of_which_a_rank_is_killed_is_tried_again(order: Order, rank: int) -> None:
    for act in ("wait", "alone"):  # in a message to each other, and far from one
        ending = ending_of(order, act, kill=rank)
        assert (ending.code, ending.retryable) == ("step_killed", True)


def test_a_step_of_which_a_rank_crashes_fails_with_its_reason(order: Order) -> None:
    ending = ending_of(order, "raise")
    assert (ending.code, ending.retryable) == ("step_crashed", False)
    assert ending.detail == "RankDied: process 2 of 2 ended with exit code 1" and "LookupError: lost" in ending.log_tail
    assert ending_of(order, "segfault").detail == "RankDied: process 2 of 2 was ended by SIGSEGV"


def test_a_child_trains_in_one_team_after_another_and_leaves_no_process(order: Order) -> None:
    met: list[list[int]] = []

    async def take(event: dict[str, Any]) -> None:
        assert event["event"] == "metric"  # once: the other rank's figures go nowhere
        met.append(event["values"]["pids"])

    async def follow() -> None:
        async with started() as child:
            for _ in range(2):
                ending = await carried_out(child, order, take)
                assert ending.result == {"found": met[-1], "accelerate": True}
                assert await gone(met[-1][1]) and child.lives
            assert met[0][0] == met[1][0] and met[0][1] != met[1][1]

    asyncio.run(follow())


def test_who_is_cancelled_or_killed_takes_the_other_ranks_along(order: Order) -> None:
    async def follow(end: str) -> None:
        met: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()

        async def take(event: dict[str, Any]) -> None:
            if event["event"] == "metric":
                met.set_result(event["values"]["pids"])

        async with started() as child:
            work = asyncio.create_task(carried_out(child, replace(order, spec={"act": "alone"}), take))
            pids = await met
            if end == "cancel":
                work.cancel()
            else:
                os.kill(pids[0], signal.SIGKILL)
            assert await gone(*pids)
            await asyncio.gather(work, return_exceptions=True)

    for end in ("cancel", "kill"):
        asyncio.run(follow(end))


def test_one_process_is_no_team(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEUR_TRAIN_PROCESSES", "1")

    async def ignore(event: dict[str, Any]) -> None:
        del event

    async def follow() -> Ending:
        async with started() as child:
            return await carried_out(child, order, ignore)

    result = asyncio.run(follow()).result
    assert result and len(result["found"]) == 1 and not result["accelerate"]


@pytest.fixture(scope="module")
def repaired(tmp_path_factory: pytest.TempPathFactory) -> ToyJob:
    """A job up to its training."""
    folder = tmp_path_factory.mktemp("toy")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    write_inputs(folder)
    training = {"mode": "full", "max_epochs": 3, "max_minutes": 5, "batch_size": 16}
    job = toy_job(folder, budget_ratio=0.6, finetune=training)
    job.run("prepare")
    job.price()
    job.run("score", "plan", "reconstruct")
    torch.set_num_threads(threads)
    return job


def test_a_job_trains_in_two_processes_stops_at_a_checkpoint_and_goes_on_in_one(
    repaired: ToyJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("SECATEUR_TRAIN_PROCESSES", "2")
    draining, told = threading.Event(), []

    def emit(event: Mapping[str, Any]) -> None:
        if event["event"] == "checkpoint":
            draining.set()
        if event.get("values"):
            told.append(event["values"])

    with pytest.raises(Drained):
        finetune.run(replace(repaired.context(), draining=draining, emit=emit))
    assert [row["epoch"] for row in told] == [0, 1]
    monkeypatch.setenv("SECATEUR_TRAIN_PROCESSES", "1")
    training = repaired.run("finetune")["training"]
    assert training["num_resumed"] == 1
    assert [row["loss"] for row in training["history"][:2]] == [row["loss"] for row in told]
    assert [row["epoch"] for row in training["history"]] == [0, 1, 2, 3]
