"""What several steps begin with: the user's network and images, with every fault turned into a problem that says what to do."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pruning.architectures import UnknownArchitecture, WrongWeights, build
from pruning.data import DataError, Dataset, Limits, Split, load
from pruning.export import NotExportable
from pruning.network import Network
from pruning.onnx_builder import UnsupportedOnnx
from pruning.onnx_import import from_onnx
from pruning.slim import mask_head, slice_head
from pruning.trace import NotTraceable, trace
from workers.context import StepContext, StepProblem

Progress = Callable[[float], None]
TRIAL_IMAGES = 16
MAX_HEADER_BYTES = 32 << 20
"""A hundred times what the largest network needs."""


@contextmanager
def problems() -> Iterator[None]:
    """Turn the method's refusals of user input into step problems with their codes."""
    try:
        yield
    except DataError as error:
        raise StepProblem(error.code, str(error)) from error
    except UnknownArchitecture as error:
        raise StepProblem("unknown_architecture", str(error)) from error
    except WrongWeights as error:
        lists = {"missing": error.missing, "unexpected": error.unexpected, "mis-shaped": error.misshaped}
        errors = [{"pointer": f"/file/{key}", "detail": kind} for kind, keys in lists.items() for key in keys[:100]]
        raise StepProblem("wrong_weights", f"The weights do not fit the architecture: {error}", errors) from error
    except SafetensorError as error:
        raise StepProblem("broken_model", f"The file is not valid safetensors: {error}") from error
    except UnsupportedOnnx as error:
        raise StepProblem("unsupported_onnx", str(error)) from error
    except NotTraceable as error:
        raise StepProblem("not_traceable", str(error)) from error
    except NotExportable as error:
        raise StepProblem("not_exportable", str(error)) from error


def weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file; NaN or infinite values are refused."""
    _check_header(path)
    state = load_file(path)
    if broken := [key for key, value in state.items() if value.is_floating_point() and not value.isfinite().all()]:
        raise StepProblem("broken_weights", f"Not finite: {', '.join(broken[:20])}.")
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def _check_header(path: Path) -> None:
    """Refuse a name that comes twice, of which readers would take whichever they like, and a header made to fill memory."""
    with path.open("rb") as file:
        size_bytes = int.from_bytes(file.read(8), "little")
        if size_bytes > MAX_HEADER_BYTES:
            raise StepProblem("broken_model", f"The header of the safetensors file has {size_bytes} bytes.")
        try:
            json.loads(file.read(size_bytes), object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            raise StepProblem("broken_model", f"The file is not valid safetensors: {error}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name comes twice in its header")
    return found


def module(arch: str, path: Path) -> nn.Module:
    """Return the named architecture with the file's weights."""
    return build(arch, state=weights(path))


def in_channels(model: nn.Module) -> int:
    """Return the channels of the images the network reads: those of its first convolution."""
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None:
        raise StepProblem("not_an_image_network", "The network has no convolution to read an image with.")
    return first.in_channels


def full_network(context: StepContext) -> Network:
    """Return the uploaded network as it came, traced at the data set's image size."""
    arch, size = context.spec["model"]["arch"], context.spec["dataset"]["image_size"]
    with problems():
        if arch == "onnx":
            network = from_onnx(context.path("model"))
            if network.input_shape[1:] != (size, size):
                raise StepProblem(
                    "image_size_mismatch",
                    f"The ONNX file reads {network.input_shape[1]} x {network.input_shape[2]} images, the data set "
                    f"gives {size} x {size}: upload the data set with that image_size.",
                )
            return network
        model = module(arch, context.path("model"))
        return trace(model, (in_channels(model), size, size))


def with_head(network: Network, rows: Sequence[int], policy: str) -> Network:
    """Return the network with the head the job asks for: `slice`, `mask` or `full`."""
    if policy == "slice":
        return slice_head(network, list(rows))
    return mask_head(network, list(rows)) if policy == "mask" else network


def dense_network(context: StepContext) -> Network:
    """Return the dense network with the job's head; `prepare` has found the rows."""
    network = with_head(full_network(context), context.spec["results"]["prepare"]["rows"], context.spec["job"]["head"])
    settle_threads(network)
    return network


def settle_threads(network: Network) -> None:
    """Let PyTorch use all cores or one, whichever is faster here and now.

    Beside another busy process, threads that wait for each other make small networks ten times slower than one thread alone.
    """
    images = torch.zeros(TRIAL_IMAGES, *network.input_shape)
    cores = torch.get_num_threads()
    seconds: dict[int, float] = {}
    with torch.inference_mode():
        for num_threads in (cores, 1, cores, 1):
            torch.set_num_threads(num_threads)
            start = time.perf_counter()
            network.module(images)
            # The first run of each kind also sets up; the second one counts.
            seconds[num_threads] = time.perf_counter() - start
    torch.set_num_threads(min(seconds, key=lambda num: seconds[num]))


def head_rows(context: StepContext) -> list[int] | None:
    """Return the output row of each class where the head is not sliced, else None: label and row are one then."""
    return None if context.spec["job"]["head"] == "slice" else list(context.spec["results"]["prepare"]["rows"])


def images(context: StepContext, classes: Sequence[str], channels: int, progress: Progress | None = None) -> Dataset:
    """Return the decoded images of the classes."""
    row, limits = context.spec["dataset"], context.spec["limits"]
    mean, std = (_per_channel(row[name], channels, name) for name in ("mean", "std"))
    with problems():
        return load(
            context.path("dataset.zip"),
            classes=classes,
            image_size=row["image_size"],
            mean=mean,
            std=std,
            channels=channels,
            seed=context.seed,
            cache=context.cache,
            limits=zip_limits(limits),
            progress=progress,
        )


def job_images(context: StepContext, network: Network, progress: Progress | None = None) -> Dataset:
    """Return the images of the job's classes; labels are output rows of the network's head."""
    prepared = context.spec["results"]["prepare"]
    data = images(context, prepared["classes"], network.input_shape[0], progress)
    rows = head_rows(context)
    if rows is None:
        return data

    def relabel(split: Split) -> Split:
        return replace(split, labels=np.asarray(rows)[split.labels])

    return replace(data, train=relabel(data.train), selection=relabel(data.selection))


def zip_limits(limits: dict[str, Any]) -> Limits:
    """Return the service's limits on zips and images."""
    return Limits(
        max_files=int(limits["max_zip_entries"]),
        max_total_bytes=int(limits["max_zip_bytes"]),
        max_ratio=float(limits["max_zip_ratio"]),
        max_pixels=int(limits["max_image_pixels"]),
    )


def _per_channel(values: list[float], channels: int, name: str) -> list[float]:
    if len(values) == channels:
        return list(values)
    if len(values) == 1:
        return list(values) * channels
    if channels == 1:
        return [sum(values) / len(values)]
    raise StepProblem(
        "bad_normalisation", f"The data set's {name} has {len(values)} numbers, the network reads {channels} channels."
    )
