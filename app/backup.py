"""One file with the database and every stored file it names, as they were at one moment; taken while the service runs.

Nothing is deleted while it is taken: a hold on everything comes first, then a snapshot of the database (SQLite's online
backup, or `pg_dump` within an exported snapshot), then the files that the snapshot names, which therefore are all there.
"""

import json
import re
import secrets
import shutil
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sqlalchemy import create_engine, inspect, make_url, text
from sqlalchemy.engine import URL

from app.migrate import migrate
from app.settings import Settings
from app.store.blobs import CHUNK_BYTES, BlobStore
from app.store.blobs_open import open_blobs
from app.store.repositories import Holds
from app.store.sessions import Database
from app.store.snapshots import copy_sqlite

FORMAT = "secateur-backup-1"
_ABOUT, _DATABASE = "about.json", "database"
_BLOB = re.compile(r"blobs/([0-9a-f]{64})")
_RENEW_EVERY_S = 60.0


class BackupError(Exception):
    """The backup cannot be taken or restored; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a backup holds."""

    kind: str
    """`sqlite` or `postgresql`."""
    num_files: int
    size_bytes: int


def back_up(settings: Settings, target: Path) -> Contents:
    """Write a backup to `target`, which appears when it is whole. Raises BackupError."""
    database, blobs = Database(settings.url), open_blobs(settings)
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        with everything_held(database), tempfile.TemporaryDirectory(dir=target.absolute().parent) as folder:
            snapshot = Path(folder, _DATABASE)
            named = _snapshot(database, settings.url, snapshot)
            kind = make_url(settings.url).get_backend_name()
            with part.open("xb") as file, tarfile.open(fileobj=file, mode="w|") as archive:
                about = json.dumps({"format": FORMAT, "database": kind, "num_files": len(named)}).encode()
                _add_bytes(archive, _ABOUT, about)
                archive.add(snapshot, _DATABASE, filter=_anonymous)
                size_bytes = snapshot.stat().st_size + sum(_add_blob(archive, blobs, sha256) for sha256 in named)
            part.replace(target)
    finally:
        part.unlink(missing_ok=True)
        database.close()
    return Contents(kind=kind, num_files=len(named), size_bytes=size_bytes)


def restore(settings: Settings, source: Path) -> Contents:
    """Put a backup into an empty home (and, with Postgres, an empty database). Raises BackupError, and changes nothing
    that was there.
    """
    url = make_url(settings.url)
    kind = url.get_backend_name()
    with source.open("rb") as file, tarfile.open(fileobj=file, mode="r|") as archive:
        members = iter(archive)
        about = _about(archive, next(members, None))
        if about["database"] != kind:
            raise BackupError(f"the backup is one of {about['database']}, the service is set up for {kind}")
        _require_empty(settings, url)
        settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=settings.home) as folder:
            copy = Path(folder, _DATABASE)
            _extract_database(archive, next(members, None), copy)
            blobs, num_files, size_bytes = open_blobs(settings), 0, copy.stat().st_size
            for member in members:
                size_bytes += _restore_blob(blobs, archive, member)
                num_files += 1
            if num_files != about["num_files"]:
                raise BackupError(f"the backup is cut off: {num_files} of {about['num_files']} files are in it")
            # The rows come last: a restore that fails leaves files that nothing names, and no service that looks whole.
            _load_database(url, copy)
    migrate(settings)  # a backup of an older version
    database = Database(settings.url)
    with database.write() as session:
        Holds(session).release_all()
    database.close()
    return Contents(kind=kind, num_files=num_files, size_bytes=size_bytes)


@contextmanager
def everything_held(database: Database) -> Iterator[None]:
    """Let nobody delete a stored file inside the `with`; should this process die, for an hour at most."""
    with database.write() as session:
        hold_id = Holds(session).hold_everything()
    done = threading.Event()

    def renew() -> None:
        while not done.wait(_RENEW_EVERY_S):
            with database.write() as session:
                Holds(session).renew(hold_id)

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        with database.write() as session:
            Holds(session).release(hold_id)


def _snapshot(database: Database, url: str, target: Path) -> list[str]:
    """Copy the database to `target` and return the SHA-256 of the files that this copy names."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        copy_sqlite(Path(parsed.database or ""), target)
        copy = Database(f"sqlite:///{target}")
        with closing(copy), copy.read() as session:
            return sorted(Holds(session).all_named())
    with database.engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        # This transaction waits for pg_dump in silence, which must not end it.
        connection.execute(text("SET idle_in_transaction_session_timeout = 0"))
        snapshot = connection.execute(text("SELECT pg_export_snapshot()")).scalar_one()
        named = Holds.named_on(connection)
        _run("pg_dump", parsed, ["--format=custom", f"--snapshot={snapshot}", f"--file={target}"])
    return sorted(named)


def _extract_database(archive: tarfile.TarFile, member: tarfile.TarInfo | None, copy: Path) -> None:
    content = archive.extractfile(member) if member is not None and member.name == _DATABASE else None
    if content is None:
        raise BackupError("the backup is damaged: its database is missing")
    with copy.open("wb") as file:
        shutil.copyfileobj(content, file, CHUNK_BYTES)


def _load_database(url: URL, copy: Path) -> None:
    if url.get_backend_name() == "sqlite":
        copy_sqlite(copy, Path(url.database or ""))
    else:
        _run("pg_restore", url, ["--no-owner", "--exit-on-error", "--single-transaction", str(copy)])


def _restore_blob(blobs: BlobStore, archive: tarfile.TarFile, member: tarfile.TarInfo) -> int:
    named, content = _BLOB.fullmatch(member.name), archive.extractfile(member) if member.isfile() else None
    if named is None or content is None:
        raise BackupError(f"the backup is damaged: it holds {member.name[:100]!r}")
    with blobs.writer() as writer:
        for chunk in _chunks(content):
            writer.write(chunk)
        if writer.sha256 != named[1]:
            raise BackupError(f"the backup is damaged: the file {named[1]} has other bytes")
        return writer.commit().size_bytes


def _require_empty(settings: Settings, url: URL) -> None:
    if url.get_backend_name() == "sqlite":
        if Path(url.database or "").exists():
            raise BackupError(f"{url.database} is there already; restore into an empty home")
    else:
        engine = create_engine(url)
        with engine.connect() as connection:
            tables = inspect(connection).get_table_names()
        engine.dispose()
        if tables:
            raise BackupError(f"the database {url.database} is not empty; restore into an empty one")


def _run(program: str, url: URL, options: list[str]) -> None:
    """Run one of Postgres's programs on the database; the password goes through the environment, not the command line."""
    found = shutil.which(program)
    if found is None:
        raise BackupError(f"{program} is not installed here: install PostgreSQL's client programs, or put them on PATH")
    # Not `url.set(password=None)`, which leaves it there, to be written as stars.
    bare = URL.create("postgresql", url.username, None, url.host, url.port, url.database, url.query)
    name = bare.render_as_string()
    environment = {"PATH": str(Path(found).parent), "PGPASSWORD": url.password or "", "PGCONNECT_TIMEOUT": "30"}
    done = subprocess.run(
        [found, f"--dbname={name}", *options], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BackupError(f"{program} failed: {done.stderr.strip()[-500:]}")


def _about(archive: tarfile.TarFile, member: tarfile.TarInfo | None) -> dict[str, str | int]:
    content = archive.extractfile(member) if member is not None and member.name == _ABOUT else None
    about = json.loads(content.read(10_000)) if content else {}
    if about.get("format") != FORMAT:
        raise BackupError("this is no backup of this version")
    return dict(about)


def _add_blob(archive: tarfile.TarFile, blobs: BlobStore, sha256: str) -> int:
    with blobs.local(sha256) as path:
        archive.add(path, f"blobs/{sha256}", filter=_anonymous)
        return path.stat().st_size


def _add_bytes(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        info = tarfile.TarInfo(name)
        info.size = len(content)
        archive.addfile(info, file)


def _anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mode = 0o600
    return info


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk
