"""BatchNorm in eval mode as part of the layer before it."""

import torch
from torch import Tensor

from pruning.modules import AnyPerChannel, ChannelAffine


def folded_batch_norm(weight: Tensor, bias: Tensor | None, norm: AnyPerChannel) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the layer that computes norm(layer(x)).

    W' = W * s, b' = (b - mean) * s + beta, with s = gamma / sqrt(var + eps).

    Parameters
    ----------
    weight
        Float [C_out, ...].
    bias
        Float [C_out], or None for zeros.
    norm
        A BatchNorm with running statistics, or a per-channel affine map (mean 0, variance 1).
    """
    bias = torch.zeros(len(weight), device=weight.device) if bias is None else bias
    with torch.no_grad():
        if isinstance(norm, ChannelAffine):
            return _scaled(weight, norm.weight), bias * norm.weight + norm.bias
        assert norm.running_mean is not None and norm.running_var is not None
        scale = torch.rsqrt(norm.running_var + norm.eps)
        scale = scale * norm.weight if norm.affine else scale
        shift = norm.bias if norm.affine else torch.zeros_like(scale)
        return _scaled(weight, scale), (bias - norm.running_mean) * scale + shift


def _scaled(weight: Tensor, scale: Tensor) -> Tensor:
    return weight * scale.reshape(-1, *(1,) * (weight.ndim - 1))
