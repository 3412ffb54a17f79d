"""Operators as PyTorch modules, from their signatures: what a traced network calls for them, BatchNorm folded.

Nothing is fused here that PyTorch does not fuse by itself. Letters as in `lut.measure.onnx_ops`.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lut.measure.arrays import random_array
from lut.measure.onnx_ops import check_operator, operand_shapes
from lut.measure.semi_structured import SemiStructured, qualifies
from lut.pattern import Pattern
from lut.request import fan_in_groups
from lut.signature import OpSignature

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "": nn.Identity, "relu": nn.ReLU, "relu6": nn.ReLU6, "hardswish": nn.Hardswish, "hardsigmoid": nn.Hardsigmoid,
    "silu": nn.SiLU, "sigmoid": nn.Sigmoid, "gelu": nn.GELU, "leaky_relu": nn.LeakyReLU, "elu": nn.ELU, "tanh": nn.Tanh,
    "softmax": lambda: nn.Softmax(dim=1),
}  # fmt: skip


def operator_module(signature: OpSignature, c_in: int, c_out: int, offset: int = 0) -> nn.Module:
    """Return the operator as a module of one operand, or two (`operand_shapes`), in float32 and eval mode.

    Its weights are random, equal for equal arguments. Raises ValueError for a signature or channel counts that
    describe no operator.
    """
    check_operator(signature, c_in, c_out)
    if signature.activation not in _ACTIVATIONS:
        raise ValueError(f"unknown activation {signature.activation!r}")
    activation = _ACTIVATIONS[signature.activation]()
    match signature.kind:
        case "add":
            module: nn.Module = _Sum(nn.Identity(), activation)
        case "mul":
            module = _Product(activation)
        case "concat":
            module = _Concat()
        case _:
            core = _core(signature, c_in, c_out)
            adds = signature.residual and signature.kind in ("conv", "depthwise", "gather")
            module = _Sum(core, activation) if adds else _chain(core, activation)
    _fill(module, offset)
    if signature.pattern and not _lowerable(signature):
        _make_semi_structured(module)
    return module.eval().requires_grad_(False)


def operands(signature: OpSignature, c_in: int, c_out: int, batch: int) -> list[Tensor]:
    """Return random operands, never negative, as after a ReLU."""
    shapes = operand_shapes(signature, c_in, c_out)
    return [
        torch.from_numpy(np.abs(random_array((batch, *shape), offset=position)))
        for position, shape in enumerate(shapes)
    ]


def _lowerable(signature: OpSignature) -> bool:
    return Pattern.parse(signature.pattern).lowerable


def _make_semi_structured(module: nn.Module) -> None:
    """Give the layer two of every four inputs, the same ones everywhere; dense where its widths take no such weight."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear | nn.Conv2d) and qualifies(child):
                with torch.no_grad():
                    child.weight[:, 2::4] = 0
                    child.weight[:, 3::4] = 0
                setattr(parent, name, SemiStructured(child))


def _chain(core: nn.Module, activation: nn.Module) -> nn.Module:
    return nn.Sequential(core, *([] if isinstance(activation, nn.Identity) else [activation]))


def _core(signature: OpSignature, c_in: int, c_out: int) -> nn.Module:
    kernel, stride, padding, dilation = signature.kernel, signature.stride, signature.padding, signature.dilation
    match signature.kind:
        case "conv" | "linear" if signature.pattern and _lowerable(signature):
            return _lowered(signature, c_in, c_out)
        case "conv" | "depthwise":
            groups = c_in if signature.kind == "depthwise" else signature.groups
            return _conv(c_in, c_out, signature, groups=groups, stride=stride)
        case "linear":
            return nn.Linear(c_in, c_out, bias=signature.bias, device="meta")
        case "max_pool":
            return nn.MaxPool2d(kernel, stride, padding, dilation)
        case "avg_pool":
            return nn.AvgPool2d(kernel, stride, padding)
        case "global_pool":
            return nn.AdaptiveAvgPool2d(1)
        case "batch_norm":
            on_pixel = (signature.height, signature.width) == (1, 1)
            return nn.BatchNorm1d(c_in) if on_pixel else nn.BatchNorm2d(c_in)
        case "gather":
            return _Gather(signature.stride, c_in, c_out)
        case _:
            return nn.Identity()


def _conv(c_in: int, c_out: int, signature: OpSignature, *, groups: int, stride: tuple[int, int]) -> nn.Module:
    return nn.Conv2d(
        c_in, c_out, signature.kernel, stride, signature.padding, signature.dilation, groups,
        bias=signature.bias, device="meta",
    )  # fmt: skip


def _lowered(signature: OpSignature, c_in: int, c_out: int) -> nn.Module:
    """What `pruning.lower` makes of a masked layer, with random lists."""
    length, groups = fan_in_groups(signature, c_in, c_out)
    vector, stride = signature.kind == "linear", signature.stride
    steps: list[nn.Module] = []
    if signature.kernel == (1, 1) and stride != (1, 1) and signature.padding == (0, 0):
        steps.append(nn.MaxPool2d(1, stride))
        stride = (1, 1)
    if (length, groups) != (c_in, 1):
        random = np.random.default_rng(0)
        steps.append(_Select(np.concatenate([np.sort(random.permutation(c_in)[:length]) for _ in range(groups)])))
    if vector:
        steps.append(nn.Unflatten(1, (groups * length, 1, 1)))
    steps.append(_conv(groups * length, c_out, signature, groups=groups, stride=stride))
    return nn.Sequential(*steps, *([nn.Flatten(1)] if vector else []))


def _fill(module: nn.Module, offset: int) -> None:
    """Give every weight random numbers of its own memory, scaled so that products stay near one."""
    number = 0
    for child in module.modules():
        for name, parameter in list(child.named_parameters(recurse=False)):
            scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 1.0
            values = random_array(tuple(parameter.shape), offset=offset + 7919 * number, scale=scale)
            setattr(child, name, nn.Parameter(torch.from_numpy(values)))
            number += 1


class _Select(nn.Module):
    index: Tensor

    def __init__(self, index: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("index", torch.from_numpy(index.astype(np.int64)))

    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(1, self.index)


class _Gather(nn.Module):
    """Subsamples, then picks every n-th channel or adds channels of zeros."""

    def __init__(self, stride: tuple[int, int], c_in: int, c_out: int) -> None:
        super().__init__()
        self.stride, self.padding = stride, max(0, c_out - c_in)
        picks = c_out < c_in or (c_out == c_in and stride == (1, 1))
        self.select = _Select(np.arange(c_out) * c_in // c_out) if picks else None

    def forward(self, x: Tensor) -> Tensor:
        if self.stride != (1, 1):
            x = x[:, :, :: self.stride[0], :: self.stride[1]]
        if self.padding:
            return functional.pad(x, (0, 0, 0, 0, 0, self.padding))
        if self.select is None:
            return x.contiguous()
        selected: Tensor = self.select(x)
        return selected


class _Sum(nn.Module):
    def __init__(self, core: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.core, self.activation = core, activation

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        result: Tensor = self.activation(self.core(x) + z)
        return result


class _Product(nn.Module):
    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        result: Tensor = self.activation(x * z)
        return result


class _Concat(nn.Module):
    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        return x if z is None else torch.cat((x, z), 1)
