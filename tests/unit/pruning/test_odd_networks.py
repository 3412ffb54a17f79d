"""Networks written in unusual ways: each is exact, or kept dense for a named reason, or refused with a sentence."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import detection

from pruning.groups import coupling_groups
from pruning.slim import mask, slim
from pruning.trace import NotTraceable, trace
from tests.builders import SHAPE, images, lively, outputs, random_keep

Body = Callable[["Odd", Tensor], Tensor]


class Odd(nn.Module):
    """Convolutions `a` (3 to 8 channels), `b` and `c` (8 to 8), `d` (4 to 8), a BatchNorm, linear layers, and a body."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.body = body
        self.a, self.b, self.c, self.d = (nn.Conv2d(i, 8, 3, padding=1) for i in (3, 8, 8, 4))
        self.norm, self.relu = nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        self.up, self.down, self.wide = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(6, 8)
        self.weight = nn.Parameter(torch.ones(8, 8, 3, 3))
        self.scale = nn.Parameter(torch.ones(8, 1, 1))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self, functional.relu(self.a(x)))
        logits: Tensor = self.head(x.mean((2, 3)) if x.ndim == 4 else x.mean(1))
        return logits


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def twice(m: Odd, x: Tensor) -> Tensor:
    return functional.relu(m.norm(m.b(functional.relu(m.norm(m.b(x))))))


def overwritten_and_read_again(m: Odd, x: Tensor) -> Tensor:
    x = m.b(x)
    y = m.relu(x)
    return m.c(x) + y


def overwritten_by_methods(m: Odd, x: Tensor) -> Tensor:
    x = m.b(x)
    x.mul_(2.0).add_(0.5)
    y = x
    y += 1.0
    x.clamp_(0, 6)
    return m.c(x)


def branches_on_sizes(m: Odd, x: Tensor) -> Tensor:
    y = m.b(x)
    if y.shape == x.shape and y.dim() == 4:
        y = y + x
    assert y.size(1) == 8
    return y if y.shape[-1] != y.shape[-2] else m.c(y)


def loops_over_chunks(m: Odd, x: Tensor) -> Tensor:
    return sum((m.d(part) for part in m.b(x).chunk(2, 1)), start=torch.zeros(1))


def shaped_like_another(m: Odd, x: Tensor) -> Tensor:
    gate = m.b(x).mean((2, 3), keepdim=True).sigmoid().expand_as(x)
    return (x * gate).flatten(2).view(x.shape) + m.c(x)


def expanded_by_sizes(m: Odd, x: Tensor) -> Tensor:
    batch, channels, _, _ = x.shape
    return m.b(x.mean((2, 3), keepdim=True).expand(batch, channels, 4, 4))


def channels_last_mlp(m: Odd, x: Tensor) -> Tensor:
    y = m.down(functional.gelu(m.up(x.permute(0, 2, 3, 1))))
    return x + y.permute(0, 3, 1, 2)


def gated_mlp(m: Odd, x: Tensor) -> Tensor:
    left, right = m.up(tokens(x)).chunk(2, -1)
    return m.wide(functional.silu(left) * right)


def same_tensor_twice(m: Odd, x: Tensor) -> Tensor:
    x = torch.cat([x, x], 1)
    return m.b(x[:, 4:12]) + m.c(x[:, ::2])


def arithmetic(m: Odd, x: Tensor) -> Tensor:
    return m.b(x) / 2 - functional.pad(m.c(x), (1, 1, 1, 1))[:, :, 1:-1, 1:-1] ** 2


def zeros_of_the_batchs_size(m: Odd, x: Tensor) -> Tensor:
    zeros = torch.zeros((x.shape[0], 8, 1, 1), device=x.device)
    return m.b(x) + torch.cat([zeros, zeros], 1)[:, :1].expand(-1, -1, 16, 16)


EXACT = (
    twice, overwritten_and_read_again, overwritten_by_methods, branches_on_sizes, loops_over_chunks, shaped_like_another,
    expanded_by_sizes, channels_last_mlp, gated_mlp, same_tensor_twice, arithmetic, zeros_of_the_batchs_size,
)  # fmt: skip


@pytest.mark.parametrize("body", EXACT)
def test_unusual_spelling_is_traced_and_slimmed_exactly_and_nothing_is_frozen(body: Body) -> None:
    model = lively(Odd(body))
    dense = trace(model, SHAPE)
    torch.testing.assert_close(dense.module(images()), model(images()), rtol=1e-4, atol=1e-4)
    groups = coupling_groups(dense)
    assert groups and not [group.frozen for group in groups if group.frozen]
    narrowest = {group.id: np.array([group.units - 1]) for group in groups}
    for keep in (narrowest, *(random_keep(groups, seed) for seed in range(4))):
        slimmed = outputs(slim(dense, groups, keep), 3)
        torch.testing.assert_close(outputs(mask(dense, groups, keep), 3), slimmed, rtol=1e-4, atol=1e-4)


FROZEN: dict[str, Body] = {
    "conv2d": lambda m, x: functional.conv2d(x, m.weight, padding=1),
    "mul": lambda m, x: m.b(x * m.scale),
    "einsum": lambda m, x: torch.einsum("bnc,bmc->bnm", tokens(x), tokens(x)) @ tokens(m.b(x)),
    "chunk": lambda m, x: m.wide(m.up(tokens(x)).chunk(2, -1)[0]),
    "getitem": lambda m, x: m.b(x) * x[:, 3].unsqueeze(1),
    "b.weight": lambda m, x: m.b(x) * m.b.weight.mean(),
    "add": lambda m, x: m.b(x + torch.arange(1.0, 9.0, device=x.device).expand(x.shape[0], 8)[:, :, None, None]),
    "max": lambda m, x: m.b(x) + x.max(1, keepdim=True).values,
}


@pytest.mark.parametrize("operator", FROZEN)
def test_what_mixes_channels_is_named_and_the_rest_slims_exactly(operator: str) -> None:
    dense = trace(lively(Odd(FROZEN[operator])), SHAPE)
    groups = coupling_groups(dense)
    reasons = [group.frozen for group in groups if group.frozen]
    assert any(reason.startswith(f"{operator} `") for reason in reasons)
    for seed in range(3):
        keep = random_keep(groups, seed)
        slimmed = outputs(slim(dense, groups, keep), 3)
        torch.testing.assert_close(outputs(mask(dense, groups, keep), 3), slimmed, rtol=1e-4, atol=1e-4)


REFUSED: dict[str, Body] = {
    "cannot trace": lambda m, x: m.b(x) if x.sum() > 0 else m.c(x),
    "random": lambda m, x: m.b(x) + torch.rand_like(x),
    "overwrites parts": lambda m, x: _through_a_view(m, x),
}


def _through_a_view(m: Odd, x: Tensor) -> Tensor:
    x = m.b(x)
    x[:, :3].mul_(3.0)
    return m.c(x)


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_no_graph_can_hold_is_refused_with_a_way_out(sentence: str) -> None:
    with pytest.raises(NotTraceable, match=sentence) as caught:
        trace(lively(Odd(REFUSED[sentence])), SHAPE)
    assert "ONNX" in str(caught.value)


def test_shared_weights_are_pruned_apart_and_stay_exact() -> None:
    model = Odd(lambda m, x: m.c(functional.relu(m.b(x))))
    model.c.weight = model.b.weight
    dense = trace(lively(model), SHAPE)
    groups = coupling_groups(dense)
    keep = {"a": np.array([0, 5]), "b": np.array([1, 2, 7]), "c": np.array([3])}
    torch.testing.assert_close(
        outputs(mask(dense, groups, keep)), outputs(slim(dense, groups, keep)), rtol=1e-4, atol=1e-4
    )


def test_parametrised_weights_become_plain_and_the_model_stays_parametrised() -> None:
    model = lively(Odd(lambda m, x: m.b(x)))
    nn.utils.parametrizations.weight_norm(model.b)
    expected = model(images())
    dense = trace(model, SHAPE)
    assert "b.weight" in dense.module.state_dict()
    torch.testing.assert_close(dense.module(images()), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(model(images()), expected)


def test_hooks_and_batch_statistics_are_refused() -> None:
    hooked = Odd(lambda m, x: m.b(x))
    hooked.b.register_forward_hook(lambda module, inputs, output: 2 * output)
    with pytest.raises(NotTraceable, match="Conv2d `b` has forward hooks"):
        trace(hooked, SHAPE)
    unsettled = Odd(lambda m, x: m.norm(x))
    unsettled.norm = nn.BatchNorm2d(8, track_running_stats=False)
    with pytest.raises(NotTraceable, match="running statistics"):
        trace(unsettled, SHAPE)


def test_optional_inputs_keep_their_defaults_and_required_ones_are_refused() -> None:
    class Masked(Odd):
        def forward(self, x: Tensor, mask: Tensor | None = None, *, times: float = 2.0) -> Tensor:
            return super().forward(x * times if mask is None else x * mask)

    class Paired(Odd):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x + y)

    model = lively(Masked(lambda m, x: m.b(x)))
    torch.testing.assert_close(trace(model, SHAPE).module(images()), model(images()))
    with pytest.raises(NotTraceable, match="'y'"):
        trace(Paired(lambda m, x: m.b(x)), SHAPE)


def test_detection_networks_are_refused_and_not_waited_for() -> None:
    model = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
    with pytest.raises(NotTraceable, match="one tensor of logits"):
        trace(model, (3, 64, 64))
