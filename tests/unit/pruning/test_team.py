"""Two processes that train together come to what one comes to."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pruning.team import ALONE, Team
from tests.unit.pruning.team_runs import CASES, RESUMED, World, facts

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def folder(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks left: their results, and a checkpoint after the first epoch; they went on from one of a single process."""
    folder = tmp_path_factory.mktemp("team")
    world.run(RESUMED, checkpoint=folder / "one.pt")
    shutil.move(folder / "one.pt.first", folder / "one.pt")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.unit.pruning.team_runs"]
    ranks = [
        subprocess.Popen([*command, str(rank), "2", str(folder)], cwd=ROOT, env=environment) for rank in range(2)
    ]  # fmt: skip
    try:
        assert [rank.wait(240) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def assert_alike(one: dict[str, Any], two: dict[str, Any], tolerance: float = 1e-4) -> None:
    """Hold two runs to the same decisions, and to the same numbers but for the order in which they were added up."""
    assert one["chosen"] == two["chosen"]
    close = {"rtol": tolerance, "atol": tolerance, "equal_nan": True}
    torch.testing.assert_close(torch.tensor(one["figures"]), torch.tensor(two["figures"]), **close)
    assert one["range_losses"] == pytest.approx(two["range_losses"], rel=tolerance)
    for kind in ("state", "masked"):
        torch.testing.assert_close(one[kind], two[kind], **close)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_to_what_one_trains_to(case: str, world: World, ranks: list[dict[str, Any]]) -> None:
    assert_alike(ranks[0][case], facts(world.run(case)))


@pytest.mark.parametrize("case", [*CASES, "resumed"])
def test_every_rank_has_the_same_result_to_the_last_bit(case: str, ranks: list[dict[str, Any]]) -> None:
    one, two = (rank[case] for rank in ranks)
    assert str(one["figures"]) == str(two["figures"]) and one["chosen"] == two["chosen"]
    assert all(torch.equal(value, two["state"][name]) for name, value in one["state"].items())


def test_a_run_goes_on_with_another_number_of_processes(
    world: World, folder: Path, ranks: list[dict[str, Any]], tmp_path: Path
) -> None:
    whole = facts(world.run(RESUMED))
    assert ranks[0]["resumed"]["num_resumed"] == ranks[1]["resumed"]["num_resumed"] == 1
    assert_alike(ranks[0]["resumed"], whole)
    alone = facts(world.run(RESUMED, checkpoint=Path(shutil.copy(folder / "team.pt.first", tmp_path / "run.pt"))))
    assert alone["num_resumed"] == 1
    assert_alike(alone, whole)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
@pytest.mark.parametrize("case", CASES)
def test_a_gpu_trains_to_what_a_processor_trains_to(case: str, world: World) -> None:
    assert_alike(facts(world.run(case, Team(device=torch.device("cuda")))), facts(world.run(case)), tolerance=1e-2)


@pytest.mark.parametrize(("size", "num"), [(1, 5), (2, 5), (3, 2), (4, 64), (5, 0)])
def test_every_row_is_one_ranks(size: int, num: int) -> None:
    rows = [row for rank in range(size) for row in range(num)[Team(rank=rank, size=size).rows(num)]]
    assert rows == list(range(num))


def test_who_trains_alone_loads_nothing_for_it() -> None:
    code = "import sys, pruning.finetune, workers.steps.finetune; print({'accelerate'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    assert ALONE.leads and ALONE.told(3) == 3
