"""Who lives: a worker's heartbeat, how it looks after the others, and its own end when it is cut off.

No clock is trusted to agree with another one, or with itself an hour ago. A beat changes a mark in the worker's row; who
watches measures, by its own monotonic clock, for how long the mark has stayed as it is.
"""

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from app.store.repositories import Workers
from app.store.sessions import Database
from workers.fence import is_away
from workers.reaper import EndProcess, Reaper

log = structlog.get_logger(__name__)


class Silences:
    """For how long others have been silent, by this process's monotonic clock."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[datetime, float]] = {}
        """Each worker's last beat, and when it was seen first."""
        self._asked_at = time.monotonic()

    def longer_than(self, timeout_s: float, beats: Mapping[str, datetime]) -> dict[str, datetime]:
        """Of these last beats, those that have been the same for as long, however often this was asked meanwhile.

        Begins anew after a gap of its own (database away, process frozen): others had no chance to beat either.
        """
        now = time.monotonic()
        if now - self._asked_at > timeout_s / 2:
            self._seen.clear()
        self._asked_at = now
        known = {worker: since for worker, (beat, since) in self._seen.items() if beats.get(worker) == beat}
        self._seen = {worker: (beat, known.get(worker, now)) for worker, beat in beats.items()}
        return {worker: beat for worker, (beat, since) in self._seen.items() if now - since >= timeout_s}


class Heartbeat(threading.Thread):
    """Beats for one worker, in a thread of its own, so that nothing slow in the worker delays it.

    Two more threads belong to it: one looks after the others, which may take long, and one watches whether this worker
    is cut off, which must not wait for a database that hangs.
    """

    def __init__(
        self,
        url: str,
        reaper: Reaper,
        end_process: EndProcess,
        worker_id: str,
        *,
        every_s: float,
        timeout_s: float,
        cut_off_s: float,
        on_lost: Callable[[str], None],
    ) -> None:
        """`on_lost` is told why this worker may go on no longer: it was declared dead, or heard nothing for `cut_off_s`."""
        super().__init__(name="heartbeat", daemon=True)
        self._database = _impatient(url, every_s / 2)
        self._reaper = reaper
        self._end_process = end_process
        self._worker_id = worker_id
        self._every_s = every_s
        self._timeout_s = timeout_s
        self._cut_off_s = cut_off_s
        self._on_lost = on_lost
        self._leaving = threading.Event()
        self._num_heard = 0
        self._silences, self._frozen = Silences(), Silences()
        self._looked_at = time.monotonic()

    def run(self) -> None:
        """Beat until stopped."""
        threading.Thread(target=self._watch, name="cut-off watch", daemon=True).start()
        caring = threading.Thread(target=self._care, name="reaper", daemon=True)
        caring.start()
        while not self._leaving.wait(self._every_s):
            try:
                self._beat()
            except DBAPIError as error:
                log.warning("heartbeat failed", action="heartbeat", error=str(error.orig))
                if not is_away(error):
                    self._num_heard += 1
            with contextlib.suppress(DBAPIError):
                self._end_frozen()
        caring.join(self._timeout_s)
        self._database.close()

    def stop(self) -> None:
        """Beat no more; return when the last beat is over."""
        self._leaving.set()
        self.join()

    def _watch(self) -> None:
        """End this worker when the database has not answered for too long, whatever the heartbeat is waiting for.

        Counts its own looks, and not seconds: time in which this whole process was frozen is nobody's silence.
        """
        num_heard = looks = 0
        while not self._leaving.wait(self._every_s):
            looks = looks + 1 if num_heard == self._num_heard else 0
            num_heard = self._num_heard
            if looks * self._every_s > self._cut_off_s:
                # Its job is elsewhere by now, or nowhere while the database is away; the device is wanted here.
                self._on_lost(f"cut off from the database for {self._cut_off_s:g} s")

    def _end_frozen(self) -> None:
        """Kill frozen workers of this machine: on SQLite one that was stopped inside a transaction stops everybody.

        Asked at every beat, since nobody can write, and so none of the living beat either, until it is done.
        """
        with self._database.read() as session:
            silent = self._frozen.longer_than(self._timeout_s, Workers(session).beats())
        killed = {one: beat for one, beat in silent.items() if self._end_process(one, only_stopped=True)}
        if killed:
            with self._database.write() as session:
                Workers(session).declare_dead(killed)

    def _beat(self) -> None:
        with self._database.write() as session:
            lives = Workers(session).heartbeat(self._worker_id)
        self._num_heard += 1
        if not lives:
            self._on_lost("declared dead by another worker")

    def _care(self) -> None:
        """Look after the others until stopped."""
        while not self._leaving.wait(self._every_s):
            try:
                self._look_after_others()
            except DBAPIError as error:
                log.warning("reaper failed", action="reaper", error=str(error.orig))

    def _look_after_others(self) -> None:
        self._reaper.release()
        with self._database.read() as session:
            beats = Workers(session).beats()
            beats.pop(self._worker_id, None)
            silent = self._silences.longer_than(self._timeout_s, beats)
            dead = set(Workers(session).dead_with_jobs())
        if silent:
            with self._database.write() as session:
                dead |= set(Workers(session).declare_dead(silent))
        if dead:
            self._reaper.reap(sorted(dead))
        if time.monotonic() - self._looked_at >= self._timeout_s:
            self._looked_at = time.monotonic()
            self._reaper.rescue()
            self._reaper.recall()
            self._reaper.reconcile()


def _impatient(url: str, patience_s: float) -> Database:
    """Return the database as one that says within `patience_s` that it is locked: a late beat is worse than none."""
    database = Database(url, pool_size=1)
    if database.engine.dialect.name == "sqlite":

        @event.listens_for(database.engine, "connect")
        def connect(connection: sqlite3.Connection, record: Any) -> None:
            connection.execute(f"PRAGMA busy_timeout={int(patience_s * 1000)}")

    return database
