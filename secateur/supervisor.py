"""A process tree with one root: starts children, brings crashed ones back, stops what it started and nothing else."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
STEADY_S = 60.0
"""A child that lived this long is well again: its next crash counts as the first."""
STOP_S = 30.0
"""Time a child has to hand back its work after SIGTERM, before SIGKILL, where nothing else is said."""
FORCED_S = 5.0
"""The same after a second signal: enough to hand back, not to wait for a checkpoint."""
POLL_S = 0.2
PR_SET_PDEATHSIG = 1


@dataclass(kw_only=True)
class Child:
    """One process to keep alive, and its present life."""

    name: str
    command: Sequence[str]
    process: "subprocess.Popen[bytes] | None" = None
    started_at: float = 0.0
    pause_s: float = FIRST_PAUSE_S
    restart_at: float | None = None
    """When a crashed child is due again, by the monotonic clock."""
    stage: int = 0
    """Children of a higher stage are stopped, and gone, before others are asked."""

    @property
    def alive(self) -> bool:
        """True while the process runs. One that ended stays a zombie, so that its id and its group's are not reused."""
        if self.process is None or self.process.returncode is not None:
            return False
        if not hasattr(os, "waitid"):
            return self.process.poll() is None
        return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def bury(self) -> int:
        """Kill what is left of the group the ended process led, and return how the process ended (as Popen does)."""
        assert self.process is not None, "only a child that was started is buried"
        if self.process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait()


@dataclass(kw_only=True)
class Supervisor:
    """Owns its children from `start` to `stop`; not for use from several threads."""

    env: Mapping[str, str]
    tell: Callable[[str], None]
    """Hears one sentence for each crash, restart and stop."""
    children: list[Child] = field(default_factory=list)
    num_asked: int = 0
    """Signals to stop so far; the second one is handed on and ends patience."""
    stop_s: float = STOP_S

    def handle_signals(self) -> None:
        """Let SIGINT, SIGTERM and SIGHUP end `watch`; a second one makes `stop` kill at once."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._stop_asked)

    def _stop_asked(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.num_asked += 1

    def start(self, name: str, command: Sequence[str], *, stage: int = 0) -> Child:
        """Start a process that is kept alive from now on."""
        child = Child(name=name, command=command, stage=stage)
        self.children.append(child)
        self._spawn(child)
        return child

    def _spawn(self, child: Child) -> None:
        # A group of its own keeps the terminal's Ctrl-C for us: children are stopped in order, by SIGTERM.
        child.process = subprocess.Popen(
            child.command,
            env=dict(self.env),
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),  # stdout is ours: it carries what a program may want to read
            process_group=0,
            preexec_fn=_die_with(os.getpid()),
        )
        child.started_at = time.monotonic()
        child.restart_at = None

    def tend(self) -> None:
        """Look at every child once: note crashes, start again those whose pause is over."""
        now = time.monotonic()
        for child in self.children:
            if child.alive or child.process is None:
                continue
            if child.restart_at is None:
                if now - child.started_at > STEADY_S:
                    child.pause_s = FIRST_PAUSE_S
                child.restart_at = now + child.pause_s
                how = describe_exit(child.bury())
                self.tell(f"{child.name} {how}; starting it again in {child.pause_s:g} s")
                child.pause_s = min(2 * child.pause_s, LONGEST_PAUSE_S)
            elif now >= child.restart_at:
                self._spawn(child)

    def watch(self) -> None:
        """Keep the children alive until a signal asks to stop."""
        while not self.num_asked:
            self.tend()
            time.sleep(POLL_S)

    def stop(self) -> None:
        """Ask every child to end, one after another, last started first; kill those that take too long, and what they
        left behind. So workers hand back their jobs while the API still tells of it.
        """
        for stage in sorted({child.stage for child in self.children}, reverse=True):
            self._stop([child for child in self.children if child.stage == stage])

    def _stop(self, children: Sequence[Child]) -> None:
        self._signal(children)
        deadline = time.monotonic() + self.stop_s
        forced = False
        while time.monotonic() < deadline and any(child.alive for child in children):
            if self.num_asked >= 2 and not forced:
                forced = True
                self._signal(children)
                deadline = time.monotonic() + min(FORCED_S, self.stop_s)
            time.sleep(0.05)
        for child in children:
            if child.alive:
                self.tell(f"{child.name} did not stop in time; killing it")
            if child.process is not None:
                child.bury()

    def _signal(self, children: Sequence[Child]) -> None:
        for child in reversed(children):
            if child.alive and child.process is not None:
                child.process.send_signal(signal.SIGTERM)


def describe_exit(code: int) -> str:
    """Return how a process ended, as a verb: `ended (exit 1)`, `was killed (SIGKILL)`."""
    if code >= 0:
        return f"ended (exit {code})"
    with suppress(ValueError):
        return f"was killed ({signal.Signals(-code).name})"
    return f"was killed (signal {-code})"


def _die_with(parent: int) -> Callable[[], None] | None:
    """Return what a new child runs so that the kernel ends it should its parent be killed; None off Linux."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)

    def arrange() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died between fork and here
            os.kill(os.getpid(), signal.SIGTERM)

    return arrange
