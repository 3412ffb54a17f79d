"""Processes that train one network together: each computes a share of every batch, all of them take the same steps.

N processes see the very batches that one sees, drawn and augmented from (seed, epoch), each a run of rows of its own. The
gradient of a batch's mean loss is the sum of the shares' gradients, each weighed by its rows; normalisation statistics are
frozen, so no image's outputs depend on which others lie in its share. What is left between N processes and one is the order
in which floating-point numbers are added. Whatever is decided by a clock (precision, number of epochs, the end of the time)
is decided by rank 0 and told; whatever is decided by figures is decided alike by all, because they have the same figures.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")
SILENCE = timedelta(days=1)
"""How long a rank waits for the others: a rank that hangs is noticed by who started it, not by its team."""


@dataclass(frozen=True, kw_only=True)
class Team:
    """One process that trains alone: every sum has one term, and nothing is loaded or copied."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """What this rank trains on."""

    @property
    def leads(self) -> bool:
        """True for the process that writes files and tells how far the training is."""
        return self.rank == 0

    def rows(self, num: int) -> slice:
        """Return which of `num` rows are this rank's; the ranks' rows lie one after the other and may be none."""
        return slice(num * self.rank // self.size, num * (self.rank + 1) // self.size)

    def told(self, value: T) -> T:
        """Return the value that rank 0 has given."""
        return value

    def gathered(self, rows: Tensor) -> Tensor:
        """Return the rows of all ranks, [sum of n, ...], in the order of the ranks."""
        return rows

    def summed(self, loss: Tensor, parameters: Iterable[nn.Parameter]) -> float:
        """Return the sum of the ranks' losses, each parameter's gradient replaced by the sum over the ranks."""
        del parameters
        return float(loss.detach())


ALONE = Team()


@dataclass(frozen=True, kw_only=True)
class Joined(Team):
    """A rank of several; `joined` makes one. Every method is called by all ranks in the same order."""

    def told(self, value: T) -> T:
        """Return the value that rank 0 has given."""
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]  # type: ignore[no-any-return]

    def gathered(self, rows: Tensor) -> Tensor:
        """Return the rows of all ranks, [sum of n, ...], in the order of the ranks."""
        from accelerate.utils import gather_object

        return torch.cat(gather_object([rows]))

    def summed(self, loss: Tensor, parameters: Iterable[nn.Parameter]) -> float:
        """Return the sum of the ranks' losses, each parameter's gradient replaced by the sum over the ranks.

        One message: all gradients and the loss, end to end. A parameter without a gradient has none on any rank.
        """
        from accelerate.utils import reduce

        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), loss.detach().reshape(1)])
        *sums, total = reduce(flat, "sum").split([*(gradient.numel() for gradient in gradients), 1])
        for gradient, one in zip(gradients, sums, strict=True):
            gradient.copy_(one.view(gradient.shape))
        return float(total)


@contextmanager
def joined(*, rank: int, size: int, meeting: Path, device: str = "cpu") -> Iterator[Team]:
    """Yield the team of `size` processes of this machine once all of them have come to `meeting`, a path that is nobody's yet.

    On `cpu` they talk by gloo; on `cuda` by NCCL, and rank r has GPU r. They meet at a file, because a port would be open to
    everybody on the machine, and talk over loopback. One team at a time.
    """
    from accelerate import PartialState

    sockets = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    loopback = dict.fromkeys(sockets, "lo") if Path("/sys/class/net/lo").exists() else {}
    place = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size}
    threads = {"OMP_NUM_THREADS": torch.get_num_threads()}  # unset, Accelerate would choose a number of its own
    with _environment({**loopback, **place, **threads}):
        store = torch.distributed.FileStore(str(meeting), size)  # type: ignore[attr-defined]
        backend = "gloo" if device == "cpu" else "nccl"
        torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=SILENCE)
        own = PartialState(cpu=device == "cpu").device
        try:
            yield Joined(rank=rank, size=size, device=own)
        finally:
            torch.distributed.destroy_process_group()
            PartialState._reset_state()  # noqa: SLF001 - it is kept for ever, and the next team may be another


@contextmanager
def _environment(values: dict[str, Any]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update({name: str(value) for name, value in values.items()})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
