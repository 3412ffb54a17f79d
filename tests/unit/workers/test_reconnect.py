"""A database that is away for a moment is waited for, and for no longer than that."""

import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from tests.faults.databases import Postgres
from workers.reconnect import patient_engine


@pytest.mark.postgres
def test_a_new_connection_waits_for_a_server_that_restarts() -> None:
    with Postgres() as server:
        engine = patient_engine(server.url, pool_size=1)
        assert engine is not None
        with engine.connect() as connection:
            assert connection.scalar(text("SELECT 1")) == 1
        server.stop()
        timer = threading.Timer(1.0, server.start)
        timer.start()
        began = time.monotonic()
        with engine.connect() as connection:
            assert connection.scalar(text("SELECT 2")) == 2
        assert time.monotonic() - began > 0.5
        timer.join()
        engine.dispose()


def test_patience_ends() -> None:
    engine = patient_engine("postgresql+psycopg://127.0.0.1:9/nothing", pool_size=1, patience_s=0.3)
    assert engine is not None
    began = time.monotonic()
    with pytest.raises(OperationalError):
        engine.connect()
    assert time.monotonic() - began > 0.3


def test_a_file_is_there_or_not(tmp_path: Path) -> None:
    assert patient_engine(f"sqlite:///{tmp_path / 'db'}", pool_size=1) is None
