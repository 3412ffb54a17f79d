"""What functions and layers of a traced graph do to channels, as far as `pruning.ids` knows."""

import operator

import torch
from torch import nn
from torchvision.ops import StochasticDepth

from pruning.modules import PER_CHANNEL

LITERAL = {
    torch.reshape, torch.flatten, torch.permute, torch.transpose, torch.squeeze, torch.unsqueeze, torch.narrow,
    torch.chunk, torch.split, torch.tensor_split, torch.unbind, torch.flip, operator.getitem, getattr,
}  # fmt: skip
CUTS = {torch.narrow, torch.chunk, torch.split, torch.tensor_split, torch.unbind, operator.getitem}
LITERAL_METHODS = {"size", "dim", "expand"}
UNARY = {torch.clamp, torch.abs, torch.neg, operator.neg, torch.square, torch.exp, torch.erf, torch.sin, torch.cos}
REDUCTIONS = {torch.mean, torch.sum, torch.amax, torch.amin, torch.std, torch.var, torch.logsumexp}
ELEMENTWISE = (
    nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.SiLU, nn.Mish, nn.GELU, nn.ELU, nn.LeakyReLU,
    nn.Sigmoid, nn.Tanh, nn.Softplus, nn.SELU, nn.CELU, nn.Softsign, nn.LogSigmoid, nn.Hardshrink, nn.Softshrink,
    nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, StochasticDepth,
)  # fmt: skip
NORMALISING = (*PER_CHANNEL, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
SPATIAL = (
    nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Upsample, nn.ZeroPad2d, nn.LPPool2d,
)  # fmt: skip
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
