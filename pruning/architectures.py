"""Networks by name (`torchvision/..`, `timm/..`, `cifar/..`) and the strict loading of their weights."""

import importlib.util
import re
from collections.abc import Callable, Mapping
from functools import partial

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

_IGNORABLE = re.compile(r"(^|\.)num_batches_tracked$")
_AUXILIARY = re.compile(r"^(aux1|aux2|AuxLogits)\.")
_WITH_AUXILIARY_HEADS = ("googlenet", "inception_v3")
_CIFAR_BLOCKS = {20: 3, 32: 5, 44: 7, 56: 9, 110: 18}
_CIFAR_NAME = re.compile(r"resnet(\d+)(?:-([ab]))?")


class UnknownArchitecture(ValueError):
    """No network of that name; the message says which names there are."""


class WrongWeights(ValueError):
    """The weights are not this architecture's; every offending key is listed."""

    def __init__(self, missing: list[str], unexpected: list[str], misshaped: list[str]) -> None:
        self.missing, self.unexpected, self.misshaped = missing, unexpected, misshaped
        parts = [("missing", missing), ("unexpected", unexpected), ("mis-shaped", misshaped)]
        super().__init__("; ".join(f"{len(keys)} {kind} keys: {', '.join(keys)}" for kind, keys in parts if keys))


class _CifarBlock(nn.Module):
    """Residual block of the CIFAR networks (He et al. 2016, section 4.2); the shortcut pads (A) or projects (B)."""

    def __init__(self, c_in: int, c_out: int, stride: int, option: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.stride, self.pad = stride, (c_out - c_in) // 2
        self.shortcut = nn.Sequential()
        if option == "b" and stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if len(self.shortcut):
            x = self.shortcut(x)
        elif self.stride != 1:
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return functional.relu(y + x)


class CifarResNet(nn.Module):
    """ResNet for small images: three stages of 16, 32, 64 channels, `num_blocks` blocks each (depth 6 n + 2)."""

    def __init__(self, num_blocks: int, num_outputs: int, option: str = "a", stem: int = 16) -> None:
        super().__init__()
        widths = (stem, 2 * stem, 4 * stem)
        self.conv1 = nn.Conv2d(3, stem, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.layer1 = self._stage(stem, widths[0], num_blocks, 1, option)
        self.layer2 = self._stage(widths[0], widths[1], num_blocks, 2, option)
        self.layer3 = self._stage(widths[1], widths[2], num_blocks, 2, option)
        self.linear = nn.Linear(widths[2], num_outputs)

    @staticmethod
    def _stage(c_in: int, c_out: int, num_blocks: int, stride: int, option: str) -> nn.Sequential:
        first = _CifarBlock(c_in, c_out, stride, option)
        return nn.Sequential(first, *(_CifarBlock(c_out, c_out, 1, option) for _ in range(num_blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))
        return logits


def build(arch: str, num_outputs: int | None = None, state: Mapping[str, Tensor] | None = None) -> nn.Module:
    """Return the named network in eval mode, with `state` as its weights or PyTorch's random initialisation.

    Auxiliary heads (GoogLeNet, Inception v3) are left out and their keys in `state` ignored. The `transform_input` of
    these two is off: weights that were trained with it want images normalised with mean and std 0.5.

    Parameters
    ----------
    arch
        `torchvision/<classification network>`, `timm/<name>` where timm is installed, `cifar/resnet20|32|44|56|110`
        with `-a` (zero-padding shortcut, the default) or `-b` (projection).
    num_outputs
        Rows of the head; read from `state` when None, 1000 (10 for CIFAR) without either.

    Raises
    ------
    UnknownArchitecture, WrongWeights
    """
    make, default_outputs = _maker(arch)
    if state is not None:
        state = _cleaned(state, drop_auxiliary=arch.endswith(_WITH_AUXILIARY_HEADS))
    if num_outputs is None:
        num_outputs = default_outputs if state is None else _num_outputs(make, state, default_outputs)
    model = make(num_outputs)
    if state is not None:
        load_weights(model, state)
    return model.eval()


def load_weights(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy `state` into `model`; keys and shapes must match, BatchNorm batch counters excepted.

    Raises
    ------
    WrongWeights
        Listing every missing, unexpected and mis-shaped key; the model is unchanged then.
    """
    state = _cleaned(state)
    own = model.state_dict()
    missing = [key for key in own if key not in state and not _IGNORABLE.search(key)]
    unexpected = [key for key in state if key not in own and not _IGNORABLE.search(key)]
    shared = [key for key in own if key in state and not _IGNORABLE.search(key)]
    misshaped = [
        f"{key} (is {list(state[key].shape)}, must be {list(own[key].shape)})"
        for key in shared
        if state[key].shape != own[key].shape
    ]
    if missing or unexpected or misshaped:
        raise WrongWeights(missing, unexpected, misshaped)
    model.load_state_dict({key: state[key] for key in shared}, strict=False)


def _cleaned(state: Mapping[str, Tensor], drop_auxiliary: bool = False) -> dict[str, Tensor]:
    """Return `state` without the prefix DataParallel leaves and, if asked, without auxiliary heads."""
    prefix = "module." if state and all(key.startswith("module.") for key in state) else ""
    state = {key[len(prefix) :]: value for key, value in state.items()}
    return {key: value for key, value in state.items() if not (drop_auxiliary and _AUXILIARY.match(key))}


def _num_outputs(make: Callable[[int], nn.Module], state: Mapping[str, Tensor], default: int) -> int:
    """Return the rows of the head in `state`: of the tensors whose shape follows the number of outputs."""
    with torch.device("meta"):
        one, other = make(default).state_dict(), make(default + 1).state_dict()
    head = [key for key in one if one[key].shape != other[key].shape]
    present = [key for key in head if key in state and state[key].ndim >= 1]
    if not present:
        raise WrongWeights(head, sorted(set(state) - set(one)), [])
    return int(state[present[0]].shape[0])


def _maker(arch: str) -> tuple[Callable[[int], nn.Module], int]:
    """Return (function from number of outputs to network, default number of outputs) of `arch`."""
    family, _, name = arch.partition("/")
    if family == "cifar" and (match := _CIFAR_NAME.fullmatch(name)) and int(match[1]) in _CIFAR_BLOCKS:
        return partial(CifarResNet, _CIFAR_BLOCKS[int(match[1])], option=match[2] or "a"), 10
    if family == "torchvision" and name in torchvision.models.list_models(module=torchvision.models):
        options = {"aux_logits": False, "init_weights": False} if name in _WITH_AUXILIARY_HEADS else {}
        return lambda n: torchvision.models.get_model(name, weights=None, num_classes=n, **options), 1000
    if family == "timm" and importlib.util.find_spec("timm"):
        timm = importlib.import_module("timm")
        if name in timm.list_models():
            return lambda n: timm.create_model(name, pretrained=False, num_classes=n), 1000
    raise UnknownArchitecture(
        f"there is no architecture {arch!r}: give torchvision/<classification network>, timm/<name> (where timm is "
        f"installed) or cifar/resnet{{{','.join(map(str, _CIFAR_BLOCKS))}}} with -a or -b"
    )
