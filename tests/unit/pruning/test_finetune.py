import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from pruning.augment import shuffled
from pruning.data import Split
from pruning.distill import Distiller, distillation_loss, schedule
from pruning.evaluate import accuracy
from pruning.finetune import EpochMetrics, FinetuneOptions, FinetuneResult, finetune
from pruning.masked import Masks, masked_copy
from pruning.network import Network
from pruning.slim import slim
from tests.unit.pruning.pictures import digits, first_units, grouped, trained

QUICK = FinetuneOptions(max_epochs=3, batch_size=64, learning_rates=(1e-3,), precision="fp32", flip=False)


class KilledError(Exception):
    """The worker is killed here."""


@pytest.fixture(scope="module")
def data() -> tuple[Split, Split]:
    return digits()


@pytest.fixture(scope="module")
def teacher(data: tuple[Split, Split]) -> Network:
    return trained(data[0])


@pytest.fixture(scope="module")
def student(teacher: Network) -> Network:
    groups = grouped(teacher)
    return slim(teacher, groups, first_units(groups, 0.6))


@pytest.fixture(scope="module")
def masks(student: Network) -> Masks:
    draw = torch.Generator().manual_seed(0)
    shapes = {name: student.module.get_submodule(name).weight.shape for name in ("conv1", "conv2")}
    return {name: torch.rand(shape, generator=draw) < 0.4 for name, shape in shapes.items()}


def num_revived(network: Network, masks: Masks) -> int:
    """Return how many masked weights are not zero."""
    return sum(int(network.module.get_submodule(name).weight[~mask].count_nonzero()) for name, mask in masks.items())


def same(one: FinetuneResult, two: FinetuneResult) -> bool:
    states = one.network.module.state_dict(), two.network.module.state_dict()
    facts = [
        [(row.epoch, row.accuracy, row.loss, row.train_loss) for row in result.history[1:]] for result in (one, two)
    ]
    return facts[0] == facts[1] and all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_training_brings_the_student_back(data: tuple[Split, Split], teacher: Network, student: Network) -> None:
    options = replace(QUICK, max_epochs=8, learning_rates=(1e-3, 1e-2))
    result = finetune(student, teacher, *data, options)
    assert accuracy(result.network, data[1]).overall > accuracy(student, data[1]).overall + 0.1
    assert set(result.range_losses) == {1e-3, 1e-2}
    assert result.range_losses[result.learning_rate] == min(result.range_losses.values())
    assert [row.epoch for row in result.history] == list(range(9))


def test_the_result_is_the_best_epoch_and_never_worse_than_the_start(
    data: tuple[Split, Split], teacher: Network, student: Network
) -> None:
    for rate in (1e-3, 30.0):
        result = finetune(student, teacher, *data, replace(QUICK, learning_rates=(rate,)))
        best = result.history[result.best_epoch]
        assert (best.accuracy, -best.loss) == max(
            (row.accuracy, -row.loss) for row in result.history if row.loss == row.loss
        )
        assert accuracy(result.network, data[1]).overall == best.accuracy >= result.history[0].accuracy


def test_a_hopeless_rate_gives_back_the_start(data: tuple[Split, Split], teacher: Network) -> None:
    result = finetune(teacher, teacher, *data, replace(QUICK, learning_rates=(1e4,)))
    assert result.best_epoch == 0
    start = teacher.module.state_dict()
    assert all(torch.equal(value, start[name]) for name, value in result.network.module.state_dict().items())


def test_a_run_that_diverges_stops_and_says_so(data: tuple[Split, Split], teacher: Network, student: Network) -> None:
    result = finetune(student, teacher, *data, replace(QUICK, learning_rates=(float("inf"),)))
    assert result.diverged
    assert (result.best_epoch, len(result.history)) == (0, 2)


def test_a_run_is_a_function_of_its_seed(data: tuple[Split, Split], teacher: Network, student: Network) -> None:
    one, two = (finetune(student, teacher, *data, QUICK) for _ in range(2))
    assert same(one, two)
    assert not same(one, finetune(student, teacher, *data, replace(QUICK, seed=1)))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_killed_run_resumes_to_the_very_result_of_an_uninterrupted_one(
    data: tuple[Split, Split], teacher: Network, student: Network, tmp_path: Path, precision: str
) -> None:
    options = replace(QUICK, max_epochs=4, learning_rates=(1e-3, 3e-3), precision=precision)
    checkpoint = tmp_path / "run.pt"

    def kill(metrics: EpochMetrics) -> None:
        if metrics.epoch == 2:
            raise KilledError

    with pytest.raises(KilledError):
        finetune(student, teacher, *data, options, on_epoch=kill, checkpoint=checkpoint)
    epochs: list[int] = []
    resumed = finetune(
        student, teacher, *data, options, on_epoch=lambda metrics: epochs.append(metrics.epoch), checkpoint=checkpoint
    )
    assert (resumed.num_resumed, epochs) == (2, [3, 4])
    assert same(resumed, finetune(student, teacher, *data, options))
    assert torch.load(checkpoint, weights_only=True)["history"][-1]["epoch"] == 4
    assert not list(tmp_path.glob("*.partial"))


def test_checkpoints_of_other_runs_and_damaged_ones_are_not_resumed(
    data: tuple[Split, Split], teacher: Network, student: Network, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "run.pt"
    options = replace(QUICK, max_epochs=1)
    finetune(student, teacher, *data, options, checkpoint=checkpoint)
    assert finetune(student, teacher, *data, replace(options, seed=1), checkpoint=checkpoint).num_resumed == 0
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    assert finetune(student, teacher, *data, options, checkpoint=checkpoint).num_resumed == 0
    assert finetune(student, teacher, *data, options, checkpoint=checkpoint).num_resumed == 1


def test_time_runs_out_at_the_end_of_an_epoch(data: tuple[Split, Split], teacher: Network, student: Network) -> None:
    result = finetune(student, teacher, *data, replace(QUICK, max_epochs=1000, max_minutes=0.01))
    assert 1 <= result.num_planned < 1000
    assert result.history[-1].epoch <= result.num_planned


def test_student_and_teacher_are_not_changed(data: tuple[Split, Split], teacher: Network, student: Network) -> None:
    before = [{k: v.clone() for k, v in net.module.state_dict().items()} for net in (student, teacher)]
    finetune(student, teacher, *data, replace(QUICK, precision="auto"))
    for network, state in zip((student, teacher), before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in network.module.state_dict().items())


def test_normalisation_statistics_stay_frozen(data: tuple[Split, Split], teacher: Network, student: Network) -> None:
    result = finetune(student, teacher, *data, QUICK)
    before, after = student.module.state_dict(), result.network.module.state_dict()
    assert result.best_epoch > 0
    assert all(torch.equal(value, after[name]) for name, value in before.items() if "running" in name)
    assert not torch.equal(before["conv1.weight"], after["conv1.weight"])


def test_the_loss_is_the_equation() -> None:
    outputs, soft = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    options = FinetuneOptions(distillation=0.75, temperature=2.0)
    student, teacher = (torch.softmax(logits / 2, dim=1) for logits in (outputs, soft))
    divergence = (teacher * (teacher / student).log()).sum()
    hard = -torch.log_softmax(outputs, dim=1)[0, 1]
    loss = distillation_loss(outputs, soft, torch.tensor([1]), options)
    torch.testing.assert_close(loss, 0.75 * 4 * divergence + 0.25 * hard)


def test_the_rate_warms_up_and_decays_to_nothing() -> None:
    shares = [schedule(step, 100) for step in range(100)]
    assert shares[0] == pytest.approx(0.2)
    assert max(shares) <= 1
    assert shares[4:] == sorted(shares[4:], reverse=True)
    assert shares[-1] < 1e-3


def test_the_range_test_judges_every_rate_from_the_same_start(
    data: tuple[Split, Split], teacher: Network, student: Network
) -> None:
    options = replace(QUICK, learning_rates=(1e-4, 1e-3, 1e9), range_steps=24)
    distiller = Distiller(student, teacher, data[0], options)
    rate, losses = distiller.choose_rate(data[1], step_s=0.001)
    assert rate == 1e-3
    again = Distiller(student, teacher, data[0], options).choose_rate(data[1], step_s=0.001)
    assert str((rate, losses)) == str(again)
    start = student.module.state_dict()
    assert all(torch.equal(value, start[name]) for name, value in distiller.student.module.state_dict().items())


def test_the_range_test_takes_no_more_steps_than_the_training(
    data: tuple[Split, Split], teacher: Network, student: Network
) -> None:
    options = replace(QUICK, learning_rates=(1e-4, 3e-4, 1e-3), range_steps=96, max_epochs=12)
    distiller = Distiller(student, teacher, data[0], options)
    taken = []
    handle = register_optimizer_step_post_hook(lambda *_: taken.append(1))
    distiller.choose_rate(data[1], step_s=0.0001)
    handle.remove()
    assert 48 < len(taken) <= options.max_epochs * -(-len(data[0]) // options.batch_size)


def test_without_masks_training_is_the_plain_loop_to_the_last_bit(
    data: tuple[Split, Split], teacher: Network, student: Network
) -> None:
    module = copy.deepcopy(student.module).eval().requires_grad_(True)
    optimizer = torch.optim.AdamW(module.parameters(), 1e-3, weight_decay=QUICK.weight_decay)
    num_steps, step, states = 3 * -(-len(data[0]) // 64), 0, [student.module.state_dict()]
    for epoch in (1, 2, 3):
        for images, labels in shuffled(data[0], 64, seed=0, epoch=epoch, flip=False):
            with torch.no_grad():
                soft = teacher.module(images)
            optimizer.param_groups[0]["lr"] = 1e-3 * schedule(step, num_steps)
            optimizer.zero_grad()
            distillation_loss(module(images), soft, labels, QUICK).backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            step += 1
        states.append({name: value.clone() for name, value in module.state_dict().items()})
    everything = {name: torch.ones_like(student.module.get_submodule(name).weight).bool() for name in ("conv1", "head")}
    for masks in ({}, everything):
        result = finetune(student, teacher, *data, QUICK, masks=masks)
        plain = states[result.best_epoch]
        assert result.best_epoch > 0
        assert all(torch.equal(value, plain[name]) for name, value in result.network.module.state_dict().items())


@pytest.mark.parametrize("mode", ["fixed", "ste"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_masked_weights_are_exactly_zero_in_what_is_evaluated_and_returned(
    data: tuple[Split, Split],
    teacher: Network,
    student: Network,
    masks: Masks,
    precision: str,
    mode: str,
) -> None:
    options = replace(QUICK, max_epochs=6, learning_rates=(3e-3, 1e-2), precision=precision, mask_mode=mode)
    result = finetune(student, teacher, *data, options, masks=masks)
    assert result.best_epoch > 0
    assert num_revived(result.network, masks) == 0
    best, start = (result.history[epoch] for epoch in (result.best_epoch, 0))
    assert accuracy(result.network, data[1]).overall == pytest.approx(best.accuracy)
    assert accuracy(masked_copy(student, masks), data[1]).overall == pytest.approx(start.accuracy)
    assert best.accuracy > start.accuracy
    assert (num_revived(result.unmasked, masks) > 0) == (mode == "ste")


def test_masked_weights_stay_zero_after_every_step_and_keep_no_gradient(
    data: tuple[Split, Split], teacher: Network, student: Network, masks: Masks
) -> None:
    distiller = Distiller(student, teacher, data[0], QUICK, masks)
    for batch in distiller.batches(1):
        distiller.step(batch, 1e-2)
        assert num_revived(distiller.student, masks) == 0
        gradient = distiller.student.module.get_parameter("conv1.weight").grad
        assert gradient is not None
        assert gradient.any()
        assert not gradient[~masks["conv1"]].any()


@pytest.mark.parametrize("mode", ["fixed", "ste"])
def test_a_killed_run_with_masks_resumes_to_the_very_result(
    data: tuple[Split, Split],
    teacher: Network,
    student: Network,
    masks: Masks,
    tmp_path: Path,
    mode: str,
) -> None:
    options, checkpoint = replace(QUICK, mask_mode=mode), tmp_path / "run.pt"

    def kill(metrics: EpochMetrics) -> None:
        if metrics.epoch == 1:
            raise KilledError

    with pytest.raises(KilledError):
        finetune(student, teacher, *data, options, masks=masks, on_epoch=kill, checkpoint=checkpoint)
    resumed = finetune(student, teacher, *data, options, masks=masks, checkpoint=checkpoint)
    assert resumed.num_resumed == 1
    assert num_revived(resumed.network, masks) == 0
    whole = finetune(student, teacher, *data, options, masks=masks)
    assert same(resumed, whole)
    behind = whole.unmasked.module.state_dict()
    assert all(torch.equal(value, behind[name]) for name, value in resumed.unmasked.module.state_dict().items())
    fewer = {"conv1": masks["conv1"]}
    assert finetune(student, teacher, *data, options, masks=fewer, checkpoint=checkpoint).num_resumed == 0


def test_a_mask_of_another_shape_is_refused(data: tuple[Split, Split], teacher: Network, student: Network) -> None:
    for mask in (torch.ones(2, 2, dtype=torch.bool), torch.ones_like(student.module.get_submodule("conv1").weight)):
        with pytest.raises(ValueError, match="the mask of 'conv1'"):
            finetune(student, teacher, *data, QUICK, masks={"conv1": mask})
