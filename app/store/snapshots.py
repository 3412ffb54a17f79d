"""Copies of a SQLite file that is in use."""

import sqlite3
from contextlib import closing
from pathlib import Path

from app.store.sessions import BUSY_TIMEOUT_MS, set_wal


def copy_sqlite(source: Path, target: Path) -> None:
    """Write the database as it is now to `target`, whole, whoever reads and writes it meanwhile (SQLite's online backup)."""
    target.parent.mkdir(parents=True, exist_ok=True)
    timeout_s = BUSY_TIMEOUT_MS / 1000
    with (
        closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True, timeout=timeout_s)) as reader,
        closing(sqlite3.connect(target)) as writer,
    ):
        reader.backup(writer)  # all pages in one read transaction, so that no write begins it anew
    set_wal(target)
