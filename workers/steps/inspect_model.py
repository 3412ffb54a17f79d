"""Check an uploaded network: its weights load, it traces, it runs."""

from typing import Any

import torch
from torch import nn

from pruning.architectures import build
from pruning.onnx_import import from_onnx
from workers.context import StepContext, StepProblem
from workers.steps.loading import in_channels, problems, weights


def run(context: StepContext) -> dict[str, Any]:
    """Return num_parameters, num_outputs and, where the file fixes it, input_shape."""
    arch = context.spec["model"]["arch"]
    class_names = context.spec["model"].get("class_names")
    with problems():
        if arch == "onnx":
            network = from_onnx(context.path("model"))
            model: nn.Module = network.module
            num_outputs, input_shape = network.num_outputs, list(network.input_shape)
        else:
            model = build(arch, state=weights(context.path("model")))
            num_outputs, input_shape = _num_outputs(model), None
    if class_names is not None and len(class_names) != num_outputs:
        raise StepProblem(
            "class_names_mismatch",
            f"The network has {num_outputs} outputs, class_names has {len(class_names)} names.",
            [{"pointer": "/class_names", "detail": f"must hold {num_outputs} names"}],
        )
    return {
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "num_outputs": num_outputs,
        "input_shape": input_shape,
    }


def _num_outputs(model: nn.Module) -> int:
    """Run one image of the size every named architecture accepts (vision transformers accept no other) and count the logits."""
    with torch.inference_mode():
        return int(model(torch.zeros(1, in_channels(model), 224, 224)).shape[1])
