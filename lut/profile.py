"""What a latency table was measured on: one device, one runtime, one setting."""

import hashlib
import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class DeviceProfile:
    """Everything that changes a latency; two profiles that differ never share an entry (method section 5)."""

    hardware: str
    """CPU or GPU model with its core count, as the operating system names it."""
    runtime: str
    """Runtime that executes the network: a name in `lut.measure.runtime.FILES`, or what another machine calls its own."""
    runtime_version: str
    threads: int
    """Threads the runtime may use inside one operator."""
    batch: int
    """Images per inference."""
    dtype: str = "fp32"
    """`fp32` or `fp16`."""
    layout: str = "nchw"
    """Layout of the maps a network is given: `nchw`, or `nhwc` (channels last)."""
    huge_pages: bool = False
    """Whether weights and maps lie in huge pages (`lut.measure.memory`); of a GPU, False."""

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits of SHA-256 over all fields, `huge_pages` where they are: the identity of the profile."""
        fields = {name: value for name, value in asdict(self).items() if name != "huge_pages" or value}
        canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]
