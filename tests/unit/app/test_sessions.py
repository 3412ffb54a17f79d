"""Transactions of processes that stop in the middle."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.store import sessions
from app.store.sessions import Database


@pytest.mark.postgres
def test_a_transaction_of_a_frozen_process_keeps_its_locks_for_a_moment_only(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "IDLE_TRANSACTION_TIMEOUT_S", 0.5)
    frozen, other = Database(postgres_url), Database(postgres_url)
    update = text("UPDATE a SET value = value + 1")
    with other.write() as session:
        session.execute(text("CREATE TABLE a (value INTEGER)"))
        session.execute(text("INSERT INTO a VALUES (0)"))
    with pytest.raises(DBAPIError, match="idle-in-transaction"), frozen.write() as session:
        session.execute(update)
        with other.write() as heir:
            heir.execute(update)
        session.execute(update)
    with other.read() as session:
        assert session.execute(text("SELECT value FROM a")).scalar() == 1
    frozen.close()
    other.close()
