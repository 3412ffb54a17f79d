"""Residual branches that can go as a whole, because the shortcut beside them is the identity (method section 1)."""

import operator
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from torch import fx, nn

from pruning.canonical import annotate, tidy
from pruning.network import CouplingGroup, Keep, Network, Operator
from pruning.problem import Stage
from pruning.slim import slim

IDEMPOTENT = (nn.ReLU, nn.ReLU6)
"""Activations that change nothing the second time."""


def removable_stages(
    network: Network, groups: Sequence[CouplingGroup], operators: Sequence[Operator]
) -> tuple[Stage, ...]:
    """Return every residual branch of `network` whose removal leaves a network, as stages of the knapsack.

    A stage is named after the node of its sum. It owns the operators of the branch, the sum included, and the coupling groups that
    nothing outside the branch reads or writes.
    """
    stages = []
    for node in network.module.graph.nodes:
        branch = _branch(node)
        if branch is None:
            continue
        nodes = {inner.name for inner in branch} | {node.name} | _fused_after(network, node)
        modules = {str(inner.target) for inner in branch if inner.op == "call_module"}
        # A layer that is called outside the branch, too, still has its units when the branch is gone.
        modules -= {str(n.target) for n in network.module.graph.nodes if n.op == "call_module" and n not in branch}
        inside = tuple(g.id for g in groups if not g.frozen and {slot.module for slot in g.slots} <= modules)
        layers = tuple(op.name for op in operators if op.name in nodes)
        if layers:
            stages.append(Stage(id=node.name, layers=layers, groups=inside))
    return tuple(stages)


def build(network: Network, groups: Sequence[CouplingGroup], keep: Keep, removed: Collection[str] = ()) -> Network:
    """Return the network that keeps the given units and lacks the removed stages; what stays keeps its names.

    `keep` may be empty for the groups inside removed stages. Raises ValueError for a stage that does not exist.
    """
    inner = {group: units if len(units) else np.zeros(1, dtype=np.int64) for group, units in keep.items()}
    small = slim(network, groups, inner)
    nodes: Mapping[str, fx.Node] = {node.name: node for node in small.module.graph.nodes}
    for stage in removed:
        if stage not in nodes or not _bypass(small.module, nodes[stage]):
            raise ValueError(f"there is no removable stage {stage!r}")
    if removed:
        tidy(small.module)
        annotate(small.module, small.input_shape)
    return small


def _branch(node: fx.Node) -> set[fx.Node] | None:
    """Return the nodes between the fork and the sum `node`, when one side of the sum is the fork itself; else None."""
    if node.op != "call_function" or node.target is not operator.add or len(node.all_input_nodes) != 2:
        return None
    for fork, end in (node.all_input_nodes, reversed(node.all_input_nodes)):
        if fork.meta.get("shape") == end.meta.get("shape") and (branch := _between(fork, end, node)):
            return branch
    return None


def _between(fork: fx.Node, end: fx.Node, total: fx.Node) -> set[fx.Node]:
    """Return the nodes that lead from `fork` to `end` and serve the sum alone; empty when there are others among them."""
    branch: set[fx.Node] = set()
    pending = [end]
    while pending:
        node = pending.pop()
        if node is fork or node in branch:
            continue
        if node.op in ("placeholder", "output"):
            return set()
        branch.add(node)
        pending.extend(node.all_input_nodes)
    closed = all(user in branch or user is total for node in branch for user in node.users)
    return branch if closed else set()


def _shortcut(total: fx.Node, branch: set[fx.Node]) -> fx.Node:
    return next(side for side in total.all_input_nodes if side not in branch)


def _fused_after(network: Network, node: fx.Node) -> set[str]:
    """Return the names of the activations behind a sum: they go with it where the shortcut is already activated."""
    return {user.name for user in node.users if user.op == "call_module" and _is_idle(network.module, user, node)}


def _is_idle(module: fx.GraphModule, activation: fx.Node, total: fx.Node) -> bool:
    """Return whether the activation behind the sum changes nothing once the sum is its shortcut."""
    branch = _branch(total)
    kind = type(module.get_submodule(str(activation.target)))
    if branch is None or kind not in IDEMPOTENT:
        return False
    source = _shortcut(total, branch)
    return source.op == "call_module" and type(module.get_submodule(str(source.target))) is kind


def _bypass(module: fx.GraphModule, total: fx.Node) -> bool:
    """Let everything that reads the sum read its shortcut, past activations that then do nothing; False when there is none."""
    branch = _branch(total)
    if branch is None:
        return False
    shortcut = _shortcut(total, branch)
    for user in list(total.users):
        idle = user.op == "call_module" and _is_idle(module, user, total)
        if idle:
            user.replace_all_uses_with(shortcut)
        else:
            user.replace_input_with(total, shortcut)
    return True
