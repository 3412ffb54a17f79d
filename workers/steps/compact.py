"""The compact form of a network with masks: packed, proven to restore every bit, and weighed beside dense and CSR."""

from collections.abc import Mapping
from typing import Any

from lut.pattern import Pattern
from pruning.masked import Masks
from pruning.network import Network
from pruning.storage import differing, load_compact, save_compact, size_report
from workers.context import StepContext, StepProblem
from workers.files import COMPACT

SIZES = ("dense_bytes", "csr_bytes", "compact_bytes", "metadata_bits")


def compact(
    context: StepContext, network: Network, masks: Masks, patterns: Mapping[str, Pattern]
) -> dict[str, Any] | None:
    """Leave `model.compact.safetensors` and return its sizes; None where nothing is masked.

    `patterns` are by operator. Raises StepProblem where the file restores another network than the one it was made of.
    """
    if not masks:
        return None
    modules = {node.name: str(node.target) for node in network.module.graph.nodes}
    by_module = {modules[operator]: pattern for operator, pattern in patterns.items()}
    state, path = network.module.state_dict(), context.path(COMPACT)
    save_compact(path, state, masks, by_module)
    if wrong := differing(state, load_compact(path)):
        raise StepProblem("compact_differs", f"The compact file does not restore {', '.join(wrong[:20])} bit for bit.")
    sizes = size_report(state, masks, by_module)
    layers = [
        {"layer": one.module, "pattern": one.pattern, "density": one.num_kept / masks[one.module].numel()}
        | {key: getattr(one, key) for key in SIZES}
        for one in sizes.layers
    ]
    return {"layers": layers, "other_bytes": sizes.other_bytes} | {key: getattr(sizes, key) for key in SIZES}
