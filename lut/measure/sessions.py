"""ONNX Runtime sessions made for timing: a fixed number of threads, inputs and outputs bound to buffers."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from lut.measure.arrays import random_array
from lut.measure.runtime import Run
from lut.profile import DeviceProfile

CPU = ("CPUExecutionProvider",)
Buffers = dict[tuple[object, ...], onnxruntime.OrtValue]
"""Tensors by role and shape, shared by sessions that run one after another."""


def session_options(profile: DeviceProfile) -> onnxruntime.SessionOptions:
    """Return options with the profile's threads and every graph optimisation."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = profile.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads may spin between the operators of a run, as by default, but not while another network has its turn.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def verbatim_session(model: bytes, profile: DeviceProfile) -> onnxruntime.InferenceSession:
    """Return a session that runs exactly the nodes of `model`."""
    options = session_options(profile)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # An arena of its own would be mapped anew by every session; a process that keeps its memory has it at hand.
    options.enable_cpu_mem_arena = not profile.huge_pages
    return onnxruntime.InferenceSession(model, options, providers=list(CPU))


def network_session(
    model: bytes | Path, profile: DeviceProfile, providers: Sequence[str] = CPU
) -> onnxruntime.InferenceSession:
    """Return a session of a whole network. Raises ValueError for a file that is no ONNX network, or a
    first provider whose libraries are not there.
    """
    source = model if isinstance(model, bytes) else str(model)
    try:
        session = onnxruntime.InferenceSession(source, session_options(profile), providers=list(providers))
    except Exception as error:  # the runtime has a class of its own for every way a file can be wrong
        raise ValueError(f"ONNX Runtime cannot load the network: {error}") from error
    # Where a GPU library is missing it goes on without a word on the next provider.
    if (first := session.get_providers()[0]) != providers[0]:
        raise ValueError(f"ONNX Runtime cannot load {providers[0]}, and would run the network on {first}")
    return session


def network_run(
    model: bytes | Path, profile: DeviceProfile, providers: Sequence[str] = CPU, device: str = "cpu"
) -> Run:
    """Return a run of a whole network on fixed random inputs, which lie on `device` as its outputs do.

    Raises ValueError for a file that is no ONNX network, or inputs that are not float tensors of fixed size and the
    profile's batch.
    """
    session = network_session(model, profile, providers)
    shapes = {value.name: _input_shape(value, profile.batch) for value in session.get_inputs()}
    return bound_run(session, shapes, {}, device=device)


def bound_run(
    session: onnxruntime.InferenceSession,
    shapes: Mapping[str, tuple[int, ...]],
    buffers: Buffers,
    own_outputs: bool = False,
    device: str = "cpu",
) -> Run:
    """Return a run of `session` with inputs and outputs bound to `buffers` on `device` (`cpu`, `cuda`).

    `shapes` overrides the input shapes that the session states. Outputs of one shape share a buffer, unless
    `own_outputs`. The session runs once, to learn the shapes of its outputs.
    """
    binding = session.io_binding()
    for position, value in enumerate(session.get_inputs()):
        shape = shapes.get(value.name) or tuple(value.shape)
        key = ("in", position, shape)
        if key not in buffers:
            # Never negative, as after a ReLU.
            array = np.abs(random_array(shape, offset=position))
            buffers[key] = onnxruntime.OrtValue.ortvalue_from_numpy(array, device, 0)
        binding.bind_ortvalue_input(value.name, buffers[key])
    names = [value.name for value in session.get_outputs()]
    for name in names:
        binding.bind_output(name, device)
    session.run_with_iobinding(binding)
    for name, result in zip(names, binding.get_outputs(), strict=True):
        shared = result if own_outputs else buffers.setdefault(("out", tuple(result.shape())), result)
        binding.bind_ortvalue_output(name, shared)

    def run() -> None:
        session.run_with_iobinding(binding)

    return run


def _input_shape(value: onnxruntime.NodeArg, batch: int) -> tuple[int, ...]:
    """Return the shape to feed, a symbolic first dimension replaced by the batch."""
    shape = tuple(batch if i == 0 and not isinstance(dim, int) else dim for i, dim in enumerate(value.shape))
    if value.type != "tensor(float)" or not all(isinstance(dim, int) and dim > 0 for dim in shape):
        raise ValueError(
            f"input {value.name} is {value.type} {value.shape}; only float tensors of fixed size can be fed"
        )
    if shape and shape[0] != batch:
        raise ValueError(f"input {value.name} has batch {shape[0]}, the profile has {batch}")
    return shape
