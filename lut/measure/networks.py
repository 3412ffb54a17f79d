"""Latencies of whole networks, timed in turns."""

from collections.abc import Callable, Sequence

from lut.measure.runtime import Model, checked_runtime
from lut.measure.timing import Timed, Timing, interleave
from lut.profile import DeviceProfile


def measure_models(
    models: Sequence[Model],
    profile: DeviceProfile,
    *,
    min_seconds: float = 1.0,
    rounds: int = 10,
    min_runs: int = 3,
    progress: Callable[[float], None] = lambda fraction: None,
) -> list[Timing]:
    """Return the latency of whole networks in the profile's runtime, timed in turns in this one process so that drift
    cancels between them.

    Every network is run for at least `min_seconds` in total and `rounds * min_runs` times. Inputs are fixed random
    numbers. `progress` runs from 0 to 1. Raises ValueError for a network that cannot be loaded or fed, or when this
    machine is not `profile`'s; RuntimeAbsent where there is no such runtime.
    """
    runtime = checked_runtime(profile)
    with runtime.settled(profile):
        timed = [Timed(runtime.network_run(model, profile), profile.threads) for model in models]
        interleave(
            timed,
            rounds=rounds,
            slice_s=min_seconds / rounds,
            min_runs=min_runs,
            on_round=lambda number: progress(number / rounds),
        )
    return [one.timing() for one in timed]
