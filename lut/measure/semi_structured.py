"""Layers whose weights are 2:4, held as PyTorch's semi-structured tensors: a sparse matrix product on NVIDIA's tensor cores.

Letters: N images, P pixels of a map, O outputs, I inputs. A 1x1 convolution is the product of [N P, I] with [I, O],
which in channels-last layout needs no copy. Before `compress` the weight is dense, and the layer runs anywhere; after
it, the layer runs on the GPU it was compressed on.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

MULTIPLE_OF = (32, 64)
"""Outputs and inputs of a layer that both cuSPARSELt and CUTLASS take, in half precision."""


def qualifies(layer: nn.Module) -> bool:
    """Return whether a layer can hold a semi-structured weight: linear, or a 1x1 convolution without groups or padding,
    of 32 k outputs and 64 k inputs.
    """
    if isinstance(layer, nn.Conv2d):
        if layer.kernel_size != (1, 1) or layer.groups != 1 or layer.padding not in ((0, 0), 0, "valid", "same"):
            return False
    elif not isinstance(layer, nn.Linear):
        return False
    outputs, inputs = layer.weight.shape[:2]
    return outputs % MULTIPLE_OF[0] == 0 and inputs % MULTIPLE_OF[1] == 0


def is_two_of_four(mask: Tensor) -> bool:
    """Return whether a mask [O, I, ...] keeps at most two of every four consecutive inputs of each output and tap."""
    if mask.shape[1] % 4:
        return False
    runs = mask.reshape(len(mask), mask.shape[1] // 4, 4, -1)
    return int(runs.sum(2).max()) <= 2


class SemiStructured(nn.Module):
    """A linear layer, or a 1x1 convolution, with a 2:4 weight [O, I]; the same numbers as the layer it is made of."""

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        """`layer` must satisfy `qualifies`, and its weight be masked; its tensors are shared. ValueError otherwise."""
        super().__init__()
        if not qualifies(layer) or not is_two_of_four(layer.weight.detach() != 0):
            raise ValueError("only 2:4 weights of linear layers and 1x1 convolutions can be semi-structured")
        self.stride = layer.stride if isinstance(layer, nn.Conv2d) else (1, 1)
        self.weight: Any = nn.Parameter(layer.weight.detach().flatten(1).contiguous(), requires_grad=False)
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach(), requires_grad=False)

    def compress(self) -> None:
        """Replace the weight by its semi-structured form, in place.

        Raises RuntimeError where the weight is not on a GPU, in half precision, or the GPU has no sparse tensor cores.
        """
        self.weight = nn.Parameter(torch.sparse.to_sparse_semi_structured(self.weight.detach()), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, O] for [N, I], or [N, O, H', W'] for [N, I, H, W]."""
        if x.ndim != 4:
            return functional.linear(x, self.weight, self.bias)
        rows, columns = self.stride
        pixels = x[:, :, ::rows, ::columns].permute(0, 2, 3, 1)
        batch, height, width, channels = pixels.shape
        result = functional.linear(pixels.reshape(-1, channels), self.weight, self.bias)
        return result.reshape(batch, height, width, -1).permute(0, 3, 1, 2)


def compress(module: nn.Module) -> None:
    """Compress every `SemiStructured` layer of a network, in place. Errors as in `SemiStructured.compress`."""
    for layer in module.modules():
        if isinstance(layer, SemiStructured):
            layer.compress()
