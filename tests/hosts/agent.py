"""An agent whose host drops out of the network while it measures, comes back, and goes on."""

import time
from functools import partial
from pathlib import Path

from lut.table import LatencyTable
from secateur.schemas import JobStatus
from tests.hosts.lab import ADDRESS, Lab
from tests.integration.agent_service import DEVICE, Service, eventually, stop

LEASE_S = 8.0
CUTS = (("silent", 3.0), ("down", 3.0), ("silent", LEASE_S + 6))
"""How the network is cut, and for how long: within the lease, which the agent keeps, and for longer, when it leases again."""


def run(lab: Lab, folder: Path, database_url: str) -> dict[str, float]:
    """Build a table on the agent's device through three cuts; return how long what took, in seconds."""
    host, started_at = lab.hosts[0], time.monotonic()
    service = Service(folder, ADDRESS, database_url=database_url, agent_lease_s=LEASE_S)
    try:
        model = service.client.upload_model(_network(folder), arch="onnx")
        agent = service.start_agent(host=host.prefix)
        eventually(lambda: any(one.online for one in service.client.devices() if one.id == DEVICE), "the device")
        took = {}
        for batch, (how, seconds) in enumerate(CUTS, 2):
            build = service.client.build_lut(model.id, device=DEVICE, batch=batch)
            eventually(partial(_works, service), "work to begin")
            lab.cut(host, how)
            time.sleep(seconds)
            lab.heal(host)
            healed_at = time.monotonic()
            state = service.client.wait_build(build.id, timeout_s=150, check=False)
            assert state.status == JobStatus.SUCCEEDED, state.failure
            took[f"{how}_{seconds:g}_s"] = time.monotonic() - healed_at
        for lut in service.client.luts(device=DEVICE):
            path = service.client.export_lut(lut.id, folder / f"{lut.id}.json")
            assert LatencyTable.load(path).num_entries == lut.num_entries > 10
        assert agent.poll() is None and stop(agent) == 0
        return {**took, "all_s": time.monotonic() - started_at}
    finally:
        lab.heal(host)
        service.close()


def _works(service: Service) -> bool:
    """Whether the agent has begun something that it has not delivered."""
    said = service.said()
    return said.count("msr_") > 2 * said.count("delivered")


def _network(folder: Path) -> Path:
    """A network of two layers."""
    import torch
    from torch import nn

    from pruning.export import to_onnx
    from pruning.trace import trace

    torch.set_num_threads(1)
    net = nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )  # fmt: skip
    to_onnx(trace(net.eval(), (3, 8, 8)), folder / "two.onnx", batch=1)
    return folder / "two.onnx"
