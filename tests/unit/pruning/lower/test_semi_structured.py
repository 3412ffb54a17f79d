"""2:4 weights: which layers may hold them, that reshaping changes nothing, and, where a GPU is, that the product is exact."""

import pytest
import torch
from torch import Tensor, nn

from lut.measure.runtime import RuntimeAbsent, runtime
from lut.measure.semi_structured import SemiStructured, is_two_of_four, qualifies
from lut.pattern import Pattern
from pruning.lower.rewrite import lower
from pruning.lower.semi_structured import semi_structured, sparse_layers
from pruning.masked import masked_copy
from pruning.network import Network
from pruning.onnx_export import write
from pruning.patterns.masks import best_mask
from pruning.program import program
from pruning.trace import trace
from tests.builders import SHAPE, conv_bn, lively

TWO_OF_FOUR = Pattern.parse("2:4")
torch.set_num_threads(1)


def example() -> Network:
    layers = [
        conv_bn(3, 64, 3), nn.ReLU(), conv_bn(64, 96, 1), nn.ReLU(), conv_bn(96, 64, 3), nn.ReLU(),
        conv_bn(64, 64, 1, stride=2), nn.ReLU(), nn.Conv2d(64, 40, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 5),
    ]  # fmt: skip
    return trace(lively(nn.Sequential(*layers)), SHAPE)


def masks(network: Network, pattern: Pattern = TWO_OF_FOUR) -> dict[str, Tensor]:
    """Return the best masks by the weights' size, of every layer but the first and the last."""
    names = [name for name, layer in network.module.named_modules() if isinstance(layer, nn.Conv2d)][1:]
    return {name: best_mask(network.module.get_submodule(name).weight.detach().abs(), pattern) for name in names}


def images(batch: int = 3) -> Tensor:
    return torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(0))


def test_only_products_of_whole_tiles_qualify() -> None:
    assert qualifies(nn.Linear(64, 32)) and qualifies(nn.Conv2d(128, 64, 1, stride=2))
    for layer in (
        nn.Linear(63, 32), nn.Linear(64, 40), nn.Conv2d(64, 32, 3), nn.Conv2d(64, 32, 1, padding=1),
        nn.Conv2d(128, 64, 1, groups=2), nn.ReLU(),
    ):  # fmt: skip
        assert not qualifies(layer)


def test_a_mask_is_two_of_four_by_its_runs_of_inputs() -> None:
    mask = torch.tensor([[1, 1, 0, 0, 0, 1, 0, 1]], dtype=torch.bool)
    assert is_two_of_four(mask) and is_two_of_four(mask[..., None, None])
    assert not is_two_of_four(torch.tensor([[1, 0, 1, 1]], dtype=torch.bool))
    assert not is_two_of_four(mask[:, :6])


@pytest.mark.parametrize("layer", [nn.Linear(64, 32), nn.Conv2d(64, 32, 1, stride=2, bias=False)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_reshaping_to_a_product_changes_no_number(layer: nn.Linear | nn.Conv2d, layout: torch.memory_format) -> None:
    with torch.no_grad():
        layer.weight.mul_(best_mask(layer.weight.detach().abs(), TWO_OF_FOUR))
    x = torch.randn(2, 64) if isinstance(layer, nn.Linear) else torch.randn(2, 64, 7, 6).to(memory_format=layout)
    sparse = SemiStructured(layer)
    torch.testing.assert_close(sparse(x), layer(x), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="only 2:4 weights"):
        SemiStructured(nn.Linear(64, 32))
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA"):
            sparse.compress()


def test_the_network_computes_the_masked_one_and_names_its_sparse_layers() -> None:
    network = example()
    masked = masked_copy(network, masks(network))
    assert sparse_layers(network) == []
    assert len(sparse_layers(masked)) == 2  # the 3x3 and the one of 40 outputs stay dense
    rewritten = semi_structured(masked)
    assert sum(isinstance(layer, SemiStructured) for layer in rewritten.module.modules()) == 2
    with torch.no_grad():
        torch.testing.assert_close(rewritten.module(images()), masked.module(images()), atol=1e-4, rtol=1e-4)


def test_lowered_layers_stay_lowered_beside_them() -> None:
    network = example()
    both = masks(network)
    names = list(both)
    both[names[1]] = masks(network, Pattern.parse("16x1@1/4"))[names[1]]
    lowered = lower(network, both)
    rewritten = semi_structured(lowered)
    assert any(isinstance(layer, SemiStructured) for layer in rewritten.module.modules())
    with torch.no_grad():
        expected = masked_copy(network, both).module(images())
        torch.testing.assert_close(rewritten.module(images()), expected, atol=1e-4, rtol=1e-4)


def test_a_program_is_one_network_in_every_form() -> None:
    network = example()
    masked = masked_copy(network, masks(network))
    profile = runtime("onnxruntime").profile(1, 3)
    one = program(masked, write(masked, 3), two_of_four=True)
    expected = runtime("onnxruntime").outputs(one, profile, images().numpy())
    assert one.module is not None
    with torch.no_grad():
        torch.testing.assert_close(one.module()(images()).numpy(), expected, atol=1e-4, rtol=1e-4)
    assert not [m for m in program(network, write(network, 1)).module().modules() if isinstance(m, nn.BatchNorm2d)]  # type: ignore[misc]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
@pytest.mark.parametrize("name", ["torch_cuda_fp16", "torch_cuda_graph_fp16"])
def test_the_sparse_product_is_the_masked_layer(name: str) -> None:
    network = example()
    masked = masked_copy(network, masks(network))
    try:
        profile = runtime(name).profile(1, 3)
    except RuntimeAbsent as absent:
        pytest.skip(str(absent))
    actual = runtime(name).outputs(program(masked, write(masked, 3), two_of_four=True), profile, images().numpy())
    with torch.no_grad():
        expected = masked.module(images()).numpy()
    assert abs(actual - expected).max() <= 0.02 * max(1.0, abs(expected).max())
