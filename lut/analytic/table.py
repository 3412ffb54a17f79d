"""A latency table of an accelerator that is not on the desk, for the same solver that plans against measured ones."""

from collections.abc import Iterable
from dataclasses import asdict
from hashlib import sha256

from lut.analytic.accelerator import Accelerator
from lut.analytic.model import ACTIVATION_DENSITY, DENSE_PATTERN, operator_cost
from lut.pattern import Pattern
from lut.profile import DeviceProfile
from lut.request import GridRequest, merge_requests
from lut.signature import OpSignature
from lut.table import Entry, LatencyTable

RUNTIME = "analytic"
"""`DeviceProfile.runtime` of every table made here: no measured table has it, so the two never mix."""
MODEL_VERSION = "1"


def analytic_profile(
    accelerator: Accelerator,
    *,
    pattern: Pattern = DENSE_PATTERN,
    activation_density: float = ACTIVATION_DENSITY,
    batch: int = 1,
) -> DeviceProfile:
    """Return the profile of figures of the model: hardware is the accelerator's name, layout says how weights and
    activations are filled.

    Two accelerators of one name and different numbers have different profiles: the version holds a digest of them.
    """
    digest = sha256(repr(sorted(asdict(accelerator).items())).encode()).hexdigest()[:8]
    return DeviceProfile(
        hardware=accelerator.name,
        runtime=RUNTIME,
        runtime_version=f"{MODEL_VERSION}-{digest}",
        threads=1,
        batch=batch,
        dtype="int8",
        layout=f"{pattern.id}, activations {activation_density:g}",
    )


def analytic_table(
    accelerator: Accelerator,
    requests: Iterable[GridRequest],
    *,
    pattern: Pattern = DENSE_PATTERN,
    activation_density: float = ACTIVATION_DENSITY,
    batch: int = 1,
) -> LatencyTable:
    """Return a table that covers `requests`, every pair filled in from the model; nothing is measured.

    All convolutions and linear layers have the one pattern, fitted to each, but those whose signature names its own. Its `step` is the array's
    height: output channels beyond a multiple of it start another pass. Raises ValueError like `operator_cost`.
    """
    entries: dict[OpSignature, dict[tuple[int, int], Entry]] = {}
    for request in merge_requests(requests):
        points = entries.setdefault(request.signature, {})
        for c_in, c_out in request.pairs():
            found = operator_cost(
                accelerator,
                request.signature,
                c_in,
                c_out,
                pattern=pattern,
                activation_density=activation_density,
                batch=batch,
            )
            points[c_in, c_out] = Entry(p50_us=found.latency_us, p90_us=found.latency_us, num_samples=1)
    profile = analytic_profile(accelerator, pattern=pattern, activation_density=activation_density, batch=batch)
    return LatencyTable(profile=profile, entries=entries, step=accelerator.rows)
