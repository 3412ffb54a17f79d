"""Rewrites layers with 2:4 weights for NVIDIA's sparse tensor cores; lists of channels are lowered (`pruning.lower.rewrite`)."""

from dataclasses import replace

from torch import fx, nn
from torch.fx.experimental.optimization import fuse

from lut.measure.semi_structured import SemiStructured, is_two_of_four, qualifies
from pruning.network import Network


def semi_structured(network: Network) -> Network:
    """Return a network with the outputs of `network`, a masked one, whose 2:4 weights are held as `SemiStructured`
    where the layer qualifies; BatchNorm is folded, which leaves zeros where they are.

    `lut.measure.semi_structured.compress` makes them sparse products once the network is on a GPU, in half precision.
    All other layers stay dense, lowered ones as they are lowered.
    """
    module = fuse(network.module, no_trace=True)
    assert isinstance(module, fx.GraphModule)
    for name in sparse_layers(replace(network, module=module)):
        layer = module.get_submodule(name)
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        module.set_submodule(name, SemiStructured(layer).eval())
    return replace(network, module=module)


def sparse_layers(network: Network) -> list[str]:
    """Return the layers of a masked network that `semi_structured` rewrites, by the zeros in their weights."""
    return [
        name
        for name, layer in network.module.named_modules()
        if qualifies(layer) and is_two_of_four(layer.weight.detach() != 0)
    ]
