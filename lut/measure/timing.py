"""Interleaved timing: many things, several rounds, a slice of each in every round, so that drift hits all alike."""

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

STABLE = 0.02
"""Warm-up ends when runs in a row are no more than this faster than the fastest before them."""
MAX_WARMUP_RUNS = 40
WARMED_S = 0.01
"""What runs longer than this finds nothing in the caches of what its own previous run left there."""
MIN_CLEAN = 5
"""Fewer undisturbed samples than this are not trusted alone: then all samples count."""
_EXTRA = 3
_OFF_CPU_SHARE = 0.02
_OFF_CPU_S = 10e-6


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Latency of one whole network, with every sample it rests on; percentiles are over the undisturbed ones (see
    `Timed`).
    """

    p50_ms: float
    p90_ms: float
    num_samples: int
    samples_ms: tuple[float, ...]
    """All timed runs in the order they were taken."""
    num_disturbed: int
    """Runs among them during which the operating system gave the processor to somebody else."""
    busy: bool
    """True when nearly every run was disturbed: the percentiles are then of processor time (one thread) or of
    disturbed runs (several).
    """
    noise: float
    """Relative scatter of the medians of the rounds: no smaller difference means anything."""
    rounds_ms: tuple[float, ...] = ()
    """Medians of the rounds in order; networks timed in turns have the same rounds."""

    def over(self, base: "Timing") -> float:
        """Return how many times as long as `base` this took, timed in turns with it: the median over the rounds of both.

        A machine that was slow for some rounds was so for both; their percentiles may fall on different sides of that.
        """
        if not base.rounds_ms or len(self.rounds_ms) != len(base.rounds_ms):
            return self.p50_ms / base.p50_ms
        return float(np.median(np.array(self.rounds_ms) / np.array(base.rounds_ms)))


@dataclass
class Timed:
    """Something that can be run again and again, and the seconds each run took.

    A run is *disturbed* when the calling thread was off the processor for more than 2 % of it: another process had
    its turn. On a busy machine that would double a latency without saying anything about the device, so such runs are
    kept but do not enter percentiles while at least five others exist. Two clocks tell: wall time, which is what is
    reported, and the thread's own processor time. A network that runs longer than the scheduler's time slice may have
    no undisturbed run at all; with one thread its processor time stands in.
    """

    run: Callable[[], float | None]
    """Runs once; what it returns, if anything, are the seconds by the device's own clock, which nothing disturbs."""
    threads: int = 1
    seconds: list[float] = field(default_factory=list)
    on_cpu_s: list[float] = field(default_factory=list)
    """Processor time of the calling thread in each run."""
    disturbed: list[bool] = field(default_factory=list)
    round_medians: list[float] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    """Index of every round's first run."""

    def sample(self, num_runs: int, num_warmup: int) -> None:
        """Run `num_warmup` times untimed, then timed until `num_runs` runs were undisturbed, at most three times as
        many in all.
        """
        for _ in range(num_warmup):
            self.run()
        first, clean = len(self.seconds), 0
        self.starts.append(first)
        while clean < num_runs and len(self.seconds) - first < _EXTRA * num_runs:
            cpu = time.thread_time()
            start = time.perf_counter()
            told = self.run()
            taken = time.perf_counter() - start if told is None else told
            on_cpu = time.thread_time() - cpu if told is None else told
            self.seconds.append(taken)
            self.on_cpu_s.append(on_cpu)
            self.disturbed.append(taken - on_cpu > _OFF_CPU_SHARE * taken + _OFF_CPU_S)
            clean += not self.disturbed[-1]
        self.round_medians.append(float(np.median(self._representative(slice(first, None), least=1))))

    @property
    def busy(self) -> bool:
        """Whether too few runs were undisturbed for them to count alone."""
        return len(self.disturbed) - sum(self.disturbed) < MIN_CLEAN

    def clean_s(self, kept: np.ndarray | None = None) -> np.ndarray:
        """Return float64 [samples]: seconds of the undisturbed runs, or what stands in where those are too few; of the `kept` rounds,
        bool [rounds], alone where these are given.
        """
        if kept is None:
            return self._representative(slice(None), MIN_CLEAN)
        lengths = np.diff([*self.starts, len(self.seconds)])
        return self._representative(np.repeat(kept, lengths), MIN_CLEAN)

    def timing(self) -> Timing:
        """Return what was measured, in milliseconds."""
        p50, p90 = 1e3 * np.percentile(self.clean_s(), (50, 90))
        return Timing(
            p50_ms=float(p50),
            p90_ms=float(p90),
            num_samples=len(self.seconds),
            samples_ms=tuple(1e3 * s for s in self.seconds),
            num_disturbed=sum(self.disturbed),
            busy=self.busy,
            noise=relative_scatter(self.round_medians),
            rounds_ms=tuple(1e3 * s for s in self.round_medians),
        )

    def _representative(self, which: slice | np.ndarray, least: int) -> np.ndarray:
        seconds, on_cpu_s = np.array(self.seconds)[which], np.array(self.on_cpu_s)[which]
        kept = seconds[~np.array(self.disturbed, bool)[which]]
        if len(kept) >= least:
            return np.asarray(kept)
        return np.asarray(np.minimum(seconds, on_cpu_s) if self.threads == 1 else seconds)

    def quick_s(self, num_runs: int = 3) -> float:
        """Return the fastest of a few runs that are not recorded, in seconds; of two that are longer than `WARMED_S`, no third.

        The first alone says nothing: a runtime may make code and take memory in it.
        """
        best = math.inf
        for number in range(num_runs):
            start = time.perf_counter()
            told = self.run()
            best = min(best, time.perf_counter() - start if told is None else told)
            if number and best > WARMED_S:
                break
        return best

    def settled_s(self) -> float:
        """Return the fastest of unrecorded runs, run until two in a row bring next to nothing (one, of those longer than `WARMED_S`),
        40 at most; in seconds.

        What warms up (caches, clocks, a compiler, an allocator) gets faster from run to run, and then does not.
        """
        best, alike = self.quick_s(1), 0
        for _ in range(MAX_WARMUP_RUNS):
            before, best = best, min(best, self.quick_s(1))
            alike = 0 if best < (1 - STABLE) * before else alike + 1
            if alike == (1 if best > WARMED_S else 2):
                break
        return best


def interleave(
    timed: Sequence[Timed],
    *,
    rounds: int,
    slice_s: float,
    min_runs: int,
    on_round: Callable[[int], None] = lambda number: None,
) -> None:
    """Sample all of `timed`, round after round: at least `min_runs` runs and about `slice_s` seconds of each in every
    round.

    The order turns by one place a round, so that nothing always follows the same neighbour. What runs shorter than
    `WARMED_S` gets an untimed run before each slice, because its neighbour leaves it cold caches that its own previous
    run would not have left.
    """
    estimates = [one.settled_s() for one in timed]
    plan = [
        (one, max(min_runs, math.ceil(slice_s / max(estimate, 1e-7))), estimate)
        for one, estimate in zip(timed, estimates, strict=True)
    ]
    collecting = gc.isenabled()
    gc.disable()
    try:
        for number in range(rounds):
            first = number % max(1, len(plan))
            for one, num_runs, estimate in plan[first:] + plan[:first]:
                one.sample(num_runs, num_warmup=1 if estimate < WARMED_S else 0)
            on_round(number + 1)
    finally:
        if collecting:
            gc.enable()


def relative_scatter(values: Sequence[float]) -> float:
    """Return 1.4826 * median absolute deviation / median: a standard deviation that outliers do not move; 0 for fewer
    than two values.
    """
    if len(values) < 2:
        return 0.0
    centre = float(np.median(values))
    return 1.4826 * float(np.median(np.abs(np.asarray(values) - centre))) / centre
