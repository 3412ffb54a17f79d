"""What leaves the library: ONNX and safetensors files of a network, its multiply-accumulates and parameters."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np
import onnx
import onnxruntime
import torch
from safetensors.torch import save
from torch import fx, nn

from pruning.network import Network
from pruning.onnx_export import INPUT, OPSET, OUTPUT, write
from pruning.onnx_functions import NoRule


class NotExportable(ValueError):
    """Neither our writer nor PyTorch's exporter can write the network as ONNX; the message names what stands in the way."""


@dataclass(frozen=True, kw_only=True)
class OnnxError:
    """How far an ONNX file's logits are from the network's."""

    max_abs: float
    """Largest difference of two logits."""
    largest_logit: float
    """Largest absolute value among the network's logits."""

    @property
    def relative(self) -> float:
        """The difference relative to the largest logit, where that is above 1: rounding grows with what is rounded."""
        return self.max_abs / max(1.0, self.largest_logit)


def to_onnx(network: Network, path: Path, batch: int = 1) -> None:
    """Write `network` as ONNX for images [batch, C, H, W], BatchNorm folded; the file appears whole or not at all.

    Networks with operations outside our own vocabulary go through PyTorch's exporter, which is slower. Raises
    NotExportable where that fails, too.
    """
    try:
        model = write(network, batch).SerializeToString()
    except NoRule as rule:
        try:
            model = _by_torch(network, batch)
        except Exception as error:  # the exporter has a class of its own for every way to fail
            raise NotExportable(f"no ONNX for {rule}: our writer has no rule, PyTorch's exporter fails") from error
    _replace(path, model)


def onnx_max_abs_error(network: Network, path: Path, seed: int = 0) -> float:
    """Return the largest difference between PyTorch's logits and ONNX Runtime's, on random normal images."""
    return onnx_error(network, path, seed).max_abs


def onnx_error(network: Network, path: Path, seed: int = 0) -> OnnxError:
    """Return how far ONNX Runtime's logits are from PyTorch's, on random normal images."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    batch = session.get_inputs()[0].shape[0]
    batch = batch if isinstance(batch, int) else 2
    images = torch.randn(batch, *network.input_shape, generator=torch.Generator().manual_seed(seed))
    (actual,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        expected = network.module(images).numpy()
    return OnnxError(max_abs=float(np.abs(expected - actual).max()), largest_logit=float(np.abs(expected).max()))


def to_safetensors(network: Network, path: Path) -> None:
    """Write parameters and buffers by name; the file appears whole or not at all."""
    state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in network.module.state_dict().items()}
    _replace(path, save(state))


def weight_bytes(path: Path) -> int:
    """Return the bytes of an ONNX file's weights and biases: its float tensors but scalars."""
    floats = [tensor for tensor in onnx.load(path).graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    return sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in floats if tensor.dims)


def num_parameters(network: Network) -> int:
    """Return how many trainable numbers the network has."""
    return sum(parameter.numel() for parameter in network.module.parameters())


def num_macs(network: Network) -> int:
    """Return the multiply-accumulates of convolutions, linear layers and attention for one image."""
    total = 0
    for node in network.module.graph.nodes:
        if node.op == "call_module":
            module = network.module.get_submodule(str(node.target))
            for kind, count in _MACS.items():
                if isinstance(module, kind):
                    total += count(node, module)
    return total


def _conv_macs(node: fx.Node, conv: nn.Module) -> int:
    weight, shape = conv.weight, node.meta["shape"]
    assert isinstance(weight, torch.Tensor)
    return int(weight.numel() * torch.Size(shape[2:]).numel())


def _linear_macs(node: fx.Node, linear: nn.Module) -> int:
    weight, shape = linear.weight, node.meta["shape"]
    assert isinstance(weight, torch.Tensor)
    return int(weight.numel() * torch.Size(shape[1:-1]).numel())


def _attention_macs(node: fx.Node, module: nn.Module) -> int:
    _, tokens, width = node.all_input_nodes[0].meta["shape"]
    return int(4 * tokens * width * width + 2 * tokens * tokens * width)


_MACS: dict[type[nn.Module] | tuple[type[nn.Module], ...], Callable[[fx.Node, nn.Module], int]] = {
    (nn.Conv1d, nn.Conv2d, nn.Conv3d): _conv_macs,
    nn.Linear: _linear_macs,
    nn.MultiheadAttention: _attention_macs,
}


def _by_torch(network: Network, batch: int) -> bytes:
    example = torch.zeros(batch, *network.input_shape)
    program = torch.onnx.export(
        network.module.eval(),
        (example,),
        dynamo=True,
        opset_version=OPSET,
        input_names=[INPUT],
        output_names=[OUTPUT],
        verbose=False,
    )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    return bytes(model.SerializeToString())


def _replace(path: Path, content: bytes) -> None:
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink()
            raise
