"""The physical device a worker owns, as the profile its latency tables belong to."""

from lut.profile import DeviceProfile


class UnknownDevice(ValueError):
    """No runtime of this machine serves the device."""


def describe(device: str) -> DeviceProfile:
    """Return the device's profile at one thread and batch 1; raise UnknownDevice for what this machine does not have.

    The runtime is loaded for it (ONNX Runtime for `local`), torch is not.
    """
    if device != "local":
        raise UnknownDevice(f"unknown device {device!r}: there is `local`, the machine's CPU under ONNX Runtime")
    from lut.measure.onnxruntime import local_profile

    return local_profile(threads=1, batch=1)
