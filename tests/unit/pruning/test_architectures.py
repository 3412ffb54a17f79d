import pytest
import torch
from torch import Tensor, nn

from pruning.architectures import UnknownArchitecture, WrongWeights, build, load_weights
from tests.builders import images


@pytest.mark.parametrize(("depth", "parameters"), [(20, 269_722), (32, 464_154), (56, 853_018)])
def test_cifar_resnets_have_the_published_sizes(depth: int, parameters: int) -> None:
    model = build(f"cifar/resnet{depth}")
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model(images((3, 32, 32))).shape == (2, 10)


def test_option_b_projects_where_option_a_pads() -> None:
    one, other = (set(build(f"cifar/resnet20{option}").state_dict()) for option in ("-a", "-b"))
    assert {key.rsplit(".", 1)[0] for key in other - one} == {
        f"layer{stage}.0.shortcut.{i}" for stage in (2, 3) for i in (0, 1)
    }
    assert one == set(build("cifar/resnet20").state_dict()) and one < other


@pytest.mark.parametrize("arch", ["cifar/resnet20", "torchvision/squeezenet1_1", "torchvision/mobilenet_v3_small"])
def test_number_of_outputs_is_read_from_the_weights(arch: str) -> None:
    source = build(arch, 7)
    model = build(arch, state=source.state_dict())
    x = images((3, 64, 64))
    with torch.no_grad():
        assert model(x).shape == (2, 7)
        assert torch.equal(model(x), source(x))


def test_batch_counters_and_the_prefix_of_data_parallel_do_not_matter() -> None:
    source = build("cifar/resnet20")
    state = {f"module.{k}": v for k, v in source.state_dict().items() if "num_batches" not in k}
    assert torch.equal(build("cifar/resnet20", state=state)(images((3, 32, 32))), source(images((3, 32, 32))))


def test_weights_of_auxiliary_heads_are_left_out() -> None:
    state = build("torchvision/googlenet", 4).state_dict()
    state |= {"aux1.fc1.weight": torch.zeros(2, 2), "aux2.fc2.bias": torch.zeros(2)}
    assert build("torchvision/googlenet", state=state)


def test_wrong_weights_list_every_key() -> None:
    model = build("cifar/resnet20")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state: dict[str, Tensor] = dict(build("cifar/resnet20").state_dict())
    del state["layer1.0.conv1.weight"], state["linear.bias"]
    state |= {"surplus": torch.zeros(1), "conv1.weight": torch.zeros(16, 3, 5, 5)}
    with pytest.raises(WrongWeights) as caught:
        load_weights(model, state)
    assert caught.value.missing == ["layer1.0.conv1.weight", "linear.bias"]
    assert caught.value.unexpected == ["surplus"]
    assert caught.value.misshaped == ["conv1.weight (is [16, 3, 5, 5], must be [16, 3, 3, 3])"]
    assert all(name in str(caught.value) for name in ("linear.bias", "surplus", "conv1.weight"))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_weights_without_a_head_are_wrong_weights() -> None:
    state = {k: v for k, v in build("cifar/resnet20").state_dict().items() if not k.startswith("linear")}
    with pytest.raises(WrongWeights, match=r"linear\.weight"):
        build("cifar/resnet20", state=state)


@pytest.mark.parametrize(
    "arch",
    ["resnet50", "torchvision/no_such", "cifar/resnet21", "timm/hf_hub:some/thing", "torchvision/raft_large", ""],
)
def test_unknown_name_says_which_names_there_are(arch: str) -> None:
    with pytest.raises(UnknownArchitecture, match="torchvision/<classification network>"):
        build(arch)


def test_network_comes_in_eval_mode() -> None:
    model: nn.Module = build("cifar/resnet20-b", 3)
    assert not model.training
