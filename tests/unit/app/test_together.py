"""Requests that come at the same time: served together, each answered for itself."""

import asyncio
import contextvars
import threading
from collections.abc import Sequence

import pytest

from app.together import MOST, Together

asked_by = contextvars.ContextVar("asked_by", default="")


class Desk:
    """Serves numbers once it is opened, and keeps its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.seen: list[str] = []
        self.open = threading.Event()

    def serve(self, some: Sequence[int]) -> list[int | Exception]:
        assert self.open.wait(10)
        self.batches.append(list(some))
        self.seen.append(asked_by.get())
        if 13 in some:
            raise RuntimeError("no luck")
        return [ValueError(str(one)) if one < 0 else 10 * one for one in some]


def asked(numbers: Sequence[int], cancelled: Sequence[int] = ()) -> tuple[Desk, list[int | BaseException]]:
    """Ask for the first number, then, while it is served, for all others."""
    desk = Desk()

    async def ask() -> list[int | BaseException]:
        together = Together[int, int](desk.serve)
        asked_by.set("somebody")
        tasks = [asyncio.create_task(together(numbers[0]))]
        await asyncio.sleep(0.05)
        tasks += [asyncio.create_task(together(number)) for number in numbers[1:]]
        await asyncio.sleep(0.05)
        for position in cancelled:
            tasks[position].cancel()
        desk.open.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    return desk, asyncio.run(ask())


def test_what_comes_while_a_batch_is_served_is_the_next() -> None:
    desk, answers = asked([1, 2, 3, 4])
    assert desk.batches == [[1], [2, 3, 4]]
    assert answers == [10, 20, 30, 40]
    assert set(desk.seen) == {""}, "a batch is no part of the request that came first"


def test_a_batch_has_no_more_than_so_many() -> None:
    desk, answers = asked(range(100, 100 + 2 * MOST))
    assert answers == [10 * number for number in range(100, 100 + 2 * MOST)]
    assert max(map(len, desk.batches)) == MOST


def test_a_failure_is_its_own_requests_alone_unless_the_batch_fails() -> None:
    _, answers = asked([1, -2, 3])
    assert answers[0] == 10 and answers[2] == 30
    assert isinstance(answers[1], ValueError) and str(answers[1]) == "-2"
    desk, answers = asked([13, 13, 13])
    assert [str(answer) for answer in answers] == ["no luck"] * 3 and sum(map(len, desk.batches)) == 3


def test_who_gives_up_is_served_and_bothers_nobody() -> None:
    desk, answers = asked([1, 2, 3], cancelled=[0, 2])
    assert sorted(number for batch in desk.batches for number in batch) == [1, 2, 3]
    assert answers[1] == 20 and isinstance(answers[0], asyncio.CancelledError)


@pytest.mark.parametrize("first", [[13], [1]])
def test_it_goes_on_after_a_pause_and_after_a_failure(first: list[int]) -> None:
    desk = Desk()
    desk.open.set()

    async def ask() -> tuple[object, int]:
        together = Together[int, int](desk.serve)
        before = await asyncio.gather(*map(together, first), return_exceptions=True)
        await asyncio.sleep(0.05)
        return before, await together(5)

    assert asyncio.run(ask())[1] == 50
