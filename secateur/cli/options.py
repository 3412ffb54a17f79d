"""What users write on the command line, turned into what the wire takes; every mistake is a `UsageError`."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.errors import UsageError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PRESETS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": IMAGENET,
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""(mean, std) per channel of pixels scaled to 0..1."""
IMAGE_SIZES = {"torchvision": 224, "timm": 224, "cifar": 32}
"""Side in pixels that the weights of a family are usually trained for."""
BUDGET = re.compile(r"([0-9]*\.?[0-9]+(?:e-?[0-9]+)?)\s*(ms|us|s|x|%)?", re.IGNORECASE)

SIZE = re.compile(r"([0-9]*\.?[0-9]+)\s*(b|[kmg]i?b?|)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """How pixels scaled to 0..1 become the network's input: (pixel - mean) / std, per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def parse_budget(text: str, option: str = "--budget") -> dict[str, float]:
    """Return `{"budget_ms": ..}` for `5`, `5ms`, `800us`, `0.1s`; `{"budget_ratio": ..}` for `0.5x`, `50%`."""
    match = BUDGET.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{option} {text}: write a time, as in 5ms, or a share of the dense latency, as in 0.5x")
    number, unit = float(match[1]), (match[2] or "ms").lower()
    if number <= 0:
        raise UsageError(f"{option} {text}: a budget is more than nothing")
    if unit in ("x", "%"):
        ratio = number / 100 if unit == "%" else number
        if ratio > 1:
            raise UsageError(f"{option} {text}: a share of the dense latency is at most 1x")
        return {"budget_ratio": ratio}
    return {"budget_ms": number * {"ms": 1.0, "us": 1e-3, "s": 1e3}[unit]}


def parse_also(texts: Sequence[str] | None) -> list[dict[str, Any]]:
    """Return the wire's `also` from `5ms,runtime=openvino,threads=2,batch=8,device=pixel6` and the like."""
    return [_parse_device_budget(text) for text in texts or ()]


def _parse_device_budget(text: str) -> dict[str, Any]:
    budget, *settings = (part.strip() for part in text.split(","))
    found: dict[str, Any] = dict(parse_budget(budget, "--also"))
    for setting in settings:
        key, _, value = setting.partition("=")
        if key in ("device", "runtime") and value:
            found[key] = value
        elif key in ("threads", "batch") and value.isdecimal():
            found[key] = int(value)
        else:
            raise UsageError(f"--also {text}: write a budget, then runtime=openvino, threads=2, batch=8 or device=<id>")
    return found


def parse_frontier(texts: Sequence[str] | None, budget: Mapping[str, float]) -> list[float]:
    """Return the numbers of `--frontier 0.4x,0.6x`, which must be in the unit of `--budget`."""
    (unit,) = budget
    parsed = [parse_budget(part, "--frontier") for text in texts or () for part in text.split(",")]
    if any(unit not in one for one in parsed):
        raise UsageError("--frontier: write its budgets in the unit of --budget, as times or as shares (0.4x)")
    return [one[unit] for one in parsed]


def parse_size(text: str | None) -> int | None:
    """Return the bytes of `800kB`, `5MB`, `1.5MiB` or `100000`; None stays None."""
    if text is None:
        return None
    match = SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"--max-weights {text}: write a number of bytes, as in 800kB or 5MB")
    base = 1024 if "i" in match[2].lower() else 1000
    return int(float(match[1]) * base ** "bkmg".index(match[2].lower()[:1] or "b"))


def parse_widths(texts: Sequence[str] | None) -> dict[str, int]:
    """Return least channels by layer from `conv1=32,layer1.0.conv1=16`."""
    found = {}
    for part in (part.strip() for text in texts or () for part in text.split(",")):
        layer, _, width = part.rpartition("=")
        if not layer or not width.isdecimal() or int(width) < 1:
            raise UsageError(f"--min-width {part}: write a layer and its least channels, as in layer1.0.conv1=32")
        found[layer] = int(width)
    return found


def split_names(texts: Sequence[str] | None) -> list[str]:
    """Return the names of an option that may be given several times and holds names separated by commas, each once."""
    return list(dict.fromkeys(name for text in texts or () for part in text.split(",") if (name := part.strip())))


def split_classes(texts: Sequence[str]) -> list[str]:
    """Return the classes of `--classes cat,dog --classes horse`, in order, each once."""
    names = split_names(texts)
    if not names:
        raise UsageError("--classes: name at least one class")
    return names


def resolve_classes(names: Sequence[str], folders: Sequence[str]) -> list[str | int]:
    """Return each class as the wire takes it: a folder name where there is one so called, else an index.

    A dataset of digits has folders called `3`; there, 3 means the folder. A name that is neither goes out as it is,
    and the service, which knows more, says what is wrong with it.
    """
    return [name if name in folders or not name.isdecimal() else int(name) for name in names]


def parse_normalization(text: str | None, mean: str | None, std: str | None, *, arch: str) -> Normalization:
    """Return the normalisation from `--normalize`, or `--mean` and `--std`, or what the architecture's family uses.

    Only torchvision and timm have a usual one (ImageNet's); elsewhere a guess would cost accuracy in silence.
    """
    if mean is not None or std is not None:
        if mean is None or std is None or text is not None:
            raise UsageError("give --mean and --std together, without --normalize")
        return _checked(_numbers("--mean", mean), _numbers("--std", std))
    if text is None:
        if arch.partition("/")[0] in ("torchvision", "timm"):
            return Normalization(mean=IMAGENET[0], std=IMAGENET[1])
        raise UsageError(
            f"say how the network's images were normalised: --normalize {'|'.join(PRESETS)} or six numbers"
        )
    if text in PRESETS:
        return Normalization(mean=PRESETS[text][0], std=PRESETS[text][1])
    numbers = _numbers("--normalize", text)
    half = len(numbers) // 2
    return _checked(numbers[:half], numbers[half:])


def _checked(mean: tuple[float, ...], std: tuple[float, ...]) -> Normalization:
    if len(mean) != len(std) or not mean:
        raise UsageError("a normalisation has as many standard deviations as means, one for each channel")
    if min(std) <= 0:
        raise UsageError("a standard deviation is more than zero")
    return Normalization(mean=mean, std=std)


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.replace(",", " ").split())
    except ValueError:
        presets = f", or one of {', '.join(PRESETS)}" if option == "--normalize" else ""
        raise UsageError(f"{option} {text}: write numbers separated by commas{presets}") from None


def default_image_size(arch: str, input_shape: Sequence[int] | None) -> int:
    """Return the side the network expects: what its file fixes, or what its family is usually trained for."""
    if input_shape and len(input_shape) == 3:
        return input_shape[-1]
    size = IMAGE_SIZES.get(arch.partition("/")[0])
    if size is None:
        raise UsageError("say the side of the network's images in pixels: --image-size 224, for one")
    return size


def model_arch(model: Path, arch: str | None) -> str:
    """Return the architecture of a model file: as given, or `onnx` when the file says so itself."""
    if model.suffix.lower() in (".pt", ".pth", ".bin", ".pkl", ".ckpt"):
        raise UsageError(
            f"{model.name} is a pickle, which can run code when it is opened; "
            "save the weights with safetensors.torch.save_file(model.state_dict(), ...), or export ONNX"
        )
    if arch is not None:
        return arch
    if model.suffix.lower() == ".onnx":
        return "onnx"
    raise UsageError("say what network the weights belong to: --arch torchvision/resnet50, for one")


def read_json(option: str, path: Path | None, kind: type[Any]) -> Any:
    """Return the JSON in a small file, which must be an object (`dict`) or a list; None stays None."""
    if path is None:
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{option} {path}: {error}") from error
    if not isinstance(value, kind):
        raise UsageError(f"{option} {path}: expected a JSON {'object' if kind is dict else 'list'}")
    return value
