"""The latency-saliency knapsack over two tables per layer, and the plan that answers it (method section 3).

Letters: P = patterns of a layer, n_g = offered widths of coupling group g. Latency is whole nanoseconds, rounded up.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

COST_CEILING = 2**53
"""The largest costs of all tables in one budget, summed, stay below this: float64 then adds them exactly."""


@dataclass(frozen=True, kw_only=True)
class WidthChoice:
    """The widths offered for one coupling group, in ascending order; the last is the dense width."""

    id: str
    widths: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer's tables over (pattern, input choice, output choice).

    `inputs` and `output` name the coupling groups the tables are indexed by. An axis of length 1 stands where a side is
    fixed. With one input group, axis 1 follows that group's widths. With several, axis 1 follows `input_counts`, every
    total number of input channels that some choice of widths can reach.
    """

    name: str
    value: np.ndarray
    """float64 [P, n_in, n_out]: saliency kept. Zeros when value belongs to groups alone."""
    latency_ns: np.ndarray
    """int64 [P, n_in, n_out]: nanoseconds from the table."""
    inputs: tuple[str, ...] = ()
    output: str | None = None
    input_counts: tuple[int, ...] = ()
    """Ascending; needed with several inputs only. More counts than can be reached do no harm."""
    input_multiplicity: tuple[int, ...] = ()
    """With several inputs: channels one unit of each group brings. Total: `input_fixed + sum(multiplicity * width)`."""
    input_fixed: int = 0
    patterns: tuple[str, ...] = ("dense",)
    """The first is the dense one."""
    other_costs: Mapping[str, np.ndarray] = field(default_factory=dict)
    """int64 [P, n_in, n_out] per id of `Problem.other_budgets`, in that budget's unit; an absent id costs nothing."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A residual unit that may be removed as a whole, because a skip path remains.

    Removed, its layers and its inner coupling groups give neither value nor cost, and its groups have width 0 in the
    plan.
    """

    id: str
    layers: tuple[str, ...]
    groups: tuple[str, ...] = ()
    """Coupling groups that only layers of this stage read or write."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """One more limit beside the latency budget: `fixed + sum of Layer.other_costs[id] <= limit`."""

    id: str
    """What is limited, with its unit: `latency_ns:pixel6`, `size_bytes`."""
    limit: int
    fixed: int = 0


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Maximise value subject to `fixed_latency_ns + sum of latency_ns <= budget_ns` and to every other budget."""

    groups: tuple[WidthChoice, ...]
    layers: tuple[Layer, ...]
    group_value: dict[str, np.ndarray]
    """float64 [n_g] per group id: saliency kept at each offered width (added to the layers' own values)."""
    budget_ns: int
    fixed_latency_ns: int = 0
    stages: tuple[Stage, ...] = ()
    other_budgets: tuple[Budget, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A solver's answer; `status` says how much it proves."""

    status: str
    """`optimal` (gap <= tolerance), `feasible` (bound not met), `infeasible` (proven: no widths meet the budgets),
    `unknown` (this solver found no plan and proved nothing)."""
    solver: str
    widths: dict[str, int] = field(default_factory=dict)
    """Kept units per group id, 0 inside a removed stage; empty without a plan."""
    patterns: dict[str, str] = field(default_factory=dict)
    """Pattern per layer name; a layer that is absent is dense."""
    removed: tuple[str, ...] = ()
    """Ids of the stages that go as a whole."""
    value: float = 0.0
    latency_ns: int = 0
    other_costs: dict[str, int] = field(default_factory=dict)
    """Spent of every other budget, by its id."""
    bound: float = 0.0
    """No plan within the budgets has more value than this."""
    gap: float = 0.0
    """(bound - value) / bound, 0 when both are 0."""
    min_achievable_ns: int = 0
    """Least latency over all offered widths, other budgets aside: some choice reaches it."""
    other_min_achievable: dict[str, int] = field(default_factory=dict)
    """The same for every other budget, each alone."""
    min_achievable_proven: bool = True
    """Whether nothing undercuts these: False only on graphs that do not split, where the search for them was cut short."""
    seconds: float = 0.0
    seed: int = 0

    @property
    def found(self) -> bool:
        """Whether there are widths to act on."""
        return self.status in ("optimal", "feasible")

    @property
    def choice(self) -> tuple[object, ...]:
        """What the plan decides; of units ranked alike, two plans that decide alike are one network."""
        masked = sorted((name, pattern) for name, pattern in self.patterns.items() if pattern != "dense")
        return tuple(sorted(self.widths.items())), self.removed, tuple(masked)


def restrict(problem: Problem, *, min_widths: Mapping[str, int] | None = None, frozen: Collection[str] = ()) -> Problem:
    """Return the problem that offers only widths >= `min_widths[group]` and keeps every layer named in `frozen` dense.

    A frozen layer keeps its input and output groups whole, stays in its stage and is offered its dense pattern alone.
    Raises ValueError for a group or layer the problem does not have and for a minimum above the dense width.
    """
    minimum = dict(min_widths or {})
    dense = {group.id: group.widths[-1] for group in problem.groups}
    layers = {layer.name: layer for layer in problem.layers}
    if unknown := (set(minimum) - set(dense)) | (set(frozen) - set(layers)):
        raise ValueError(f"not in this problem: {', '.join(sorted(unknown))}")
    for name in frozen:
        for group_id in (*layers[name].inputs, layers[name].output):
            if group_id is not None:
                minimum[group_id] = dense[group_id]
    if above := [group_id for group_id, width in minimum.items() if width > dense[group_id]]:
        raise ValueError(f"minimum width above the dense width: {', '.join(sorted(above))}")
    keep = {
        group.id: np.array([i for i, width in enumerate(group.widths) if width >= minimum.get(group.id, 0)])
        for group in problem.groups
    }
    return offer(problem, keep, dense_layers=frozen)


def offer(problem: Problem, keep: Mapping[str, np.ndarray], dense_layers: Collection[str] = ()) -> Problem:
    """Return the problem with only the choices `keep[group]` (ascending indices) of every group.

    Layers in `dense_layers` are left their dense pattern alone, and the stages they are in may not be removed.
    """
    return replace(
        problem,
        groups=tuple(replace(g, widths=tuple(g.widths[i] for i in keep[g.id])) for g in problem.groups),
        layers=tuple(_cut(layer, keep, layer.name in dense_layers) for layer in problem.layers),
        group_value={group_id: value[keep[group_id]] for group_id, value in problem.group_value.items()},
        stages=tuple(stage for stage in problem.stages if not set(stage.layers) & set(dense_layers)),
    )


def _cut(layer: Layer, keep: Mapping[str, np.ndarray], dense_only: bool) -> Layer:
    """Return the layer with its tables cut to the kept width choices of its groups."""

    def cut(table: np.ndarray) -> np.ndarray:
        if len(layer.inputs) == 1 and table.shape[1] > 1:
            table = table[:, keep[layer.inputs[0]], :]
        if layer.output is not None and table.shape[2] > 1:
            table = table[:, :, keep[layer.output]]
        return table[:1] if dense_only else table

    return replace(
        layer,
        value=cut(layer.value),
        latency_ns=cut(layer.latency_ns),
        patterns=layer.patterns[:1] if dense_only else layer.patterns,
        other_costs={budget: cut(table) for budget, table in layer.other_costs.items()},
    )


def reachable_counts(problem: Problem, layer: Layer) -> set[int]:
    """Return every total number of input channels that some choice of widths gives a layer with several inputs."""
    widths = {group.id: group.widths for group in problem.groups}
    counts = {layer.input_fixed}
    for group_id, times in zip(layer.inputs, layer.input_multiplicity, strict=True):
        counts = {count + times * width for count in counts for width in widths[group_id]}
    return counts


def validate(problem: Problem) -> None:
    """Raise ValueError naming the first table, group, stage or budget that does not fit the others."""
    groups = {group.id: group for group in problem.groups}
    names = [layer.name for layer in problem.layers]
    stages = [stage.id for stage in problem.stages]
    budgets = [budget.id for budget in problem.other_budgets]
    for what, ids in (
        ("group", [g.id for g in problem.groups]),
        ("layer", names),
        ("stage", stages),
        ("budget", budgets),
    ):
        if len(set(ids)) != len(ids):
            raise ValueError(f"two of one {what} id: {sorted({i for i in ids if ids.count(i) > 1})}")
    for group in problem.groups:
        if not group.widths or list(group.widths) != sorted(set(group.widths)) or group.widths[0] < 0:
            raise ValueError(f"group {group.id}: widths must be ascending and not empty")
    for group_id, value in problem.group_value.items():
        if group_id not in groups or value.shape != (len(groups[group_id].widths),) or not np.isfinite(value).all():
            raise ValueError(f"group value {group_id}: wants one finite value per offered width of a known group")
    for layer in problem.layers:
        _validate_layer(problem, layer, groups)
    _validate_sums(problem)
    _validate_stages(problem)


def _validate_sums(problem: Problem) -> None:
    """Raise ValueError where sums over the tables could not be trusted."""
    tables = [layer.value for layer in problem.layers] + list(problem.group_value.values())
    if not np.isfinite(sum(float(np.abs(table).max(initial=0.0)) for table in tables)):
        raise ValueError("values are too large: their sum is not finite")
    costs = {"latency_ns": [layer.latency_ns for layer in problem.layers]}
    for budget in problem.other_budgets:
        costs[budget.id] = [layer.other_costs[budget.id] for layer in problem.layers if budget.id in layer.other_costs]
    for name, own in costs.items():
        if sum(max(abs(int(table.max())), abs(int(table.min()))) for table in own if table.size) >= COST_CEILING:
            raise ValueError(f"{name}: costs are too large, together they pass {COST_CEILING}")


def _validate_layer(problem: Problem, layer: Layer, groups: Mapping[str, WidthChoice]) -> None:
    touched = [*layer.inputs, *([] if layer.output is None else [layer.output])]
    if unknown := [group_id for group_id in touched if group_id not in groups]:
        raise ValueError(f"layer {layer.name}: unknown group {unknown[0]}")
    if len(set(layer.inputs)) != len(layer.inputs):
        raise ValueError(f"layer {layer.name}: an input group comes twice; give it once with its multiplicity")
    lengths_in, lengths_out = {1}, {1}
    if len(layer.inputs) == 1:
        lengths_in = {1, len(groups[layer.inputs[0]].widths)}
    elif layer.inputs:
        lengths_in = {len(layer.input_counts)}
        if len(layer.input_multiplicity) != len(layer.inputs) or list(layer.input_counts) != sorted(
            set(layer.input_counts)
        ):
            raise ValueError(f"layer {layer.name}: wants one multiplicity per input and ascending input_counts")
        if missing := reachable_counts(problem, layer) - set(layer.input_counts):
            raise ValueError(f"layer {layer.name}: input_counts lacks {min(missing)}, which some widths reach")
    if layer.output is not None:
        lengths_out = {1, len(groups[layer.output].widths)}
    tables = {"value": layer.value, "latency_ns": layer.latency_ns, **layer.other_costs}
    if not np.isfinite(layer.value).all():
        raise ValueError(f"layer {layer.name}: value is not finite")
    for name, table in tables.items():
        fits = table.ndim == 3 and table.shape[1] in lengths_in and table.shape[2] in lengths_out
        if not fits or table.shape != layer.value.shape or table.shape[0] != len(layer.patterns):
            raise ValueError(
                f"layer {layer.name}: {name} has shape {table.shape}, which fits neither its groups nor its patterns"
            )
        if name != "value" and not np.issubdtype(table.dtype, np.integer):
            raise ValueError(f"layer {layer.name}: {name} must be whole numbers, rounded up")


def _validate_stages(problem: Problem) -> None:
    names = {layer.name for layer in problem.layers}
    owner: dict[str, str] = {}
    for stage in problem.stages:
        for name in stage.layers:
            if name not in names or name in owner:
                raise ValueError(f"stage {stage.id}: layer {name} is unknown or already in a stage")
            owner[name] = stage.id
    inner = {group_id: stage.id for stage in problem.stages for group_id in stage.groups}
    if unknown := set(inner) - {group.id for group in problem.groups}:
        raise ValueError(f"stage {inner[min(unknown)]}: unknown group {min(unknown)}")
    for layer in problem.layers:
        for group_id in (*layer.inputs, layer.output):
            if group_id in inner and owner.get(layer.name) != inner[group_id]:
                raise ValueError(f"stage {inner[group_id]}: layer {layer.name} outside it touches its group {group_id}")
