"""The two tables of the knapsack, built from a traced network, its saliency and a device's latency table (method section 3)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from types import MappingProxyType

import numpy as np

from lut.pattern import Pattern
from lut.request import GridRequest, merge_requests, num_weights
from lut.signature import OpSignature
from lut.table import LatencyTable, LutMiss
from pruning.network import ChannelCount, CouplingGroup, Operator, Widths
from pruning.patterns.tables import PatternTable
from pruning.problem import Budget, Layer, Problem, Stage, WidthChoice

MAX_CHOICES = 16
"""Most widths offered for one coupling group, and most totals of a concat that are measured."""
WEIGHTED = ("conv", "depthwise", "linear")
BYTES_PER_WEIGHT = 4

Choices = Mapping[str, Sequence[int]]
"""Offered widths, ascending, by coupling group id; the last is the dense width."""


def width_choices(
    groups: Iterable[CouplingGroup], table: LatencyTable, floor: float = 0.0
) -> dict[str, tuple[int, ...]]:
    """Return the widths offered for every group that may be pruned: where the device's stairs end, about `MAX_CHOICES` at most.

    A unit of k channels (grouped convolutions) makes the stair k times narrower in units. Widths below the share `floor` of a group are
    left out: the sum of saliencies knows nothing of what channels say together, and a layer squeezed to a few of them says nothing (CRISP
    keeps such a floor too, section 2 of the method).
    """
    choices = {}
    for group in groups:
        if not group.frozen:
            channels = min(slot.index.shape[1] for slot in group.slots)
            stair = replace(table, step=max(1, table.step // channels))
            widths = stair.candidate_widths(group.units, MAX_CHOICES)
            choices[group.id] = tuple(width for width in widths if width >= floor * group.units)
    return choices


def grid_requests(
    operators: Iterable[Operator],
    choices: Choices,
    max_counts: int = MAX_CHOICES,
    patterns: Mapping[str, Sequence[Pattern]] = MappingProxyType({}),
) -> list[GridRequest]:
    """Return what must be known of the device to price every combination of `choices`, merged by signature.

    `patterns` are those offered to an operator, by its name, beside the dense one. The inputs of a concat reach many totals: at most
    `max_counts` of them, evenly spread, are asked for; the rest is interpolated.
    """
    requests = []
    for operator in operators:
        c_ins = tuple(_thin(_totals(operator.c_in, choices), max_counts))
        if operator.c_in == operator.c_out:
            requests.append(GridRequest(signature=operator.signature, c_ins=c_ins, c_outs=c_ins, paired=True))
            continue
        c_outs = tuple(_thin(_totals(operator.c_out, choices), max_counts))
        lowered = [replace(operator.signature, pattern=pattern.id) for pattern in patterns.get(operator.name, ())]
        requests += [GridRequest(signature=s, c_ins=c_ins, c_outs=c_outs) for s in (operator.signature, *lowered)]
    return merge_requests(requests)


def group_values(saliency: Mapping[str, np.ndarray], choices: Choices) -> dict[str, np.ndarray]:
    """Return the saliency kept at each offered width when a group keeps its most salient units: float64 [n_g] per group."""
    values = {}
    for group, widths in choices.items():
        cumulative = np.concatenate([[0.0], np.cumsum(np.sort(saliency[group])[::-1])])
        values[group] = cumulative[np.asarray(widths)]
    return values


def best_units(saliency: Mapping[str, np.ndarray], widths: Widths) -> dict[str, np.ndarray]:
    """Return the kept units of each group at the given widths: the most salient, ties to the lower index, ascending int64."""
    return {group: np.sort(np.argsort(-saliency[group], kind="stable")[:width]) for group, width in widths.items()}


Price = Callable[[OpSignature, Sequence[int], Sequence[int]], np.ndarray]
"""Cost of one operator at every pair of channel counts: int64 [len(c_ins), len(c_outs)], in a budget's unit."""


@dataclass(frozen=True, kw_only=True)
class Limit:
    """One budget of a problem: what operators cost in it, and how much that may be."""

    id: str
    price: Price
    limit: int


def latency_limit(table: LatencyTable, budget_ns: int, correction: float = 1.0, limit_id: str = "latency_ns") -> Limit:
    """Return the budget of whole ns: `correction * sum of the table's latencies <= budget_ns`, each rounded up."""

    def price(signature: OpSignature, c_ins: Sequence[int], c_outs: Sequence[int]) -> np.ndarray:
        return np.ceil(table.grid_us(signature, c_ins, c_outs) * correction * 1000).astype(np.int64)

    return Limit(id=limit_id, price=price, limit=budget_ns)


def weight_bytes_limit(limit_bytes: int) -> Limit:
    """Return the budget of the exported weights and biases, BatchNorm folded, in bytes of float32."""

    def price(signature: OpSignature, c_ins: Sequence[int], c_outs: Sequence[int]) -> np.ndarray:
        per_output = {"batch_norm": 4}.get(signature.kind, int(signature.bias and signature.kind in WEIGHTED))
        counts = [[num_weights(signature, i, o) + per_output * o for o in c_outs] for i in c_ins]
        return BYTES_PER_WEIGHT * np.array(counts, dtype=np.int64)

    return Limit(id="weight_bytes", price=price, limit=limit_bytes)


def build_problem(
    operators: Iterable[Operator],
    choices: Choices,
    values: Mapping[str, np.ndarray],
    latency: Limit,
    *,
    others: Sequence[Limit] = (),
    stages: Iterable[Stage] = (),
    patterns: Mapping[str, PatternTable] = MappingProxyType({}),
) -> Problem:
    """Return the knapsack of most value within `latency` (ns) and every other limit.

    `patterns` are offered to the operators they are named after; one the latency table has no entry for gets no credit and is left out.

    `values` holds float64 [n_g] per group of `choices`. Raises `lut.table.LutMiss` for an operator a table does not cover.
    An operator whose input and output lie in one group is a diagonal; one that reads several groups is indexed by their total.
    """
    limits = (latency, *others)
    layers: list[Layer] = []
    fixed = dict.fromkeys((limit.id for limit in limits), 0)
    for operator in operators:
        pricer = _Pricer(operator=operator, limits=limits, choices=choices, offered=patterns.get(operator.name))
        if not pricer.groups:
            for limit in limits:
                price = limit.price(operator.signature, [operator.c_in.fixed], [operator.c_out.fixed])
                fixed[limit.id] += int(price[0, 0])
            continue
        layers.append(pricer.layer())
    return Problem(
        groups=tuple(WidthChoice(id=group, widths=tuple(widths)) for group, widths in choices.items()),
        layers=tuple(layers),
        group_value={group: np.asarray(values[group], dtype=np.float64) for group in choices},
        budget_ns=latency.limit,
        fixed_latency_ns=fixed[latency.id],
        stages=tuple(stages),
        other_budgets=tuple(Budget(id=limit.id, limit=limit.limit, fixed=fixed[limit.id]) for limit in others),
    )


@dataclass(frozen=True, kw_only=True)
class _Pricer:
    """Turns one operator into a `Layer`."""

    operator: Operator
    limits: Sequence[Limit]
    choices: Choices
    offered: PatternTable | None = None

    @property
    def groups(self) -> set[str]:
        """Groups with a choice that this operator's channels depend on."""
        return {group for group, _ in (*self.operator.c_in.terms, *self.operator.c_out.terms)}

    def grid(self, c_ins: Sequence[int], c_outs: Sequence[int]) -> list[np.ndarray]:
        """Return int64 [n_in, n_out] per limit."""
        return [limit.price(self.operator.signature, c_ins, c_outs) for limit in self.limits]

    def diagonal(self, counts: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """Return int64 [len(counts)] per limit for (c_in, c_out) pairs."""
        signature = self.operator.signature
        return [
            np.array([limit.price(signature, [c_in], [c_out])[0, 0] for c_in, c_out in counts], dtype=np.int64)
            for limit in self.limits
        ]

    def layer(self) -> Layer:
        """Return the operator's tables; its value is zero, as value belongs to the coupling groups."""
        c_in, c_out = self.operator.c_in, self.operator.c_out
        sources = [group for group, _ in c_in.terms]
        if len(self.groups) == 1:
            group = next(iter(self.groups))
            if not sources or sources == [target for target, _ in c_out.terms]:
                counts = [(c_in.at({group: w}), c_out.at({group: w})) for w in self.choices[group]]
                return self._layer([costs[None, :] for costs in self.diagonal(counts)], inputs=(), output=group)
        if len(sources) <= 1 and len(c_out.terms) <= 1:
            return self._pair(sources[0] if sources else None)
        return self._several()

    def _pair(self, source: str | None) -> Layer:
        """One group at most on either side."""
        c_in, c_out = self.operator.c_in, self.operator.c_out
        target = c_out.terms[0][0] if c_out.terms else None
        ins = [c_in.at({source: w}) for w in self.choices[source]] if source else [c_in.fixed]
        outs = [c_out.at({target: w}) for w in self.choices[target]] if target else [c_out.fixed]
        layer = self._layer(self.grid(ins, outs), inputs=(source,) if source else (), output=target)
        return self._with_patterns(layer, ins, outs) if self.offered else layer

    def _with_patterns(self, layer: Layer, c_ins: Sequence[int], c_outs: Sequence[int]) -> Layer:
        """Return the layer with the offered patterns that can be priced; where one is dense, it costs as much."""
        assert self.offered is not None
        costs = [[layer.latency_ns[0]], *([cost[0]] for cost in layer.other_costs.values())]
        values, names = [layer.value[0]], ["dense"]
        for pattern, value, fits in zip(self.offered.patterns, self.offered.value, self.offered.fits, strict=True):
            prices = self._prices(pattern, c_ins, c_outs)
            if prices is None:
                continue
            for rows, price in zip(costs, prices, strict=True):
                rows.append(np.where(fits, price, rows[0]))
            values.append(value)
            names.append(pattern.id)
        latency_ns, *others = (np.stack(rows) for rows in costs)
        return replace(
            layer,
            value=np.stack(values),
            latency_ns=latency_ns,
            patterns=tuple(names),
            other_costs=dict(zip(layer.other_costs, others, strict=True)),
        )

    def _prices(self, pattern: Pattern, c_ins: Sequence[int], c_outs: Sequence[int]) -> list[np.ndarray] | None:
        """Return what a pattern costs in every limit; None where a device has no entry of it.

        One that is not lowered runs as the dense layer there, and costs what that does; it must pay on another device.
        """
        signature, missed = replace(self.operator.signature, pattern=pattern.id), False
        prices, dense = [], self.grid(c_ins, c_outs)
        for limit, as_dense in zip(self.limits, dense, strict=True):
            try:
                prices.append(limit.price(signature, c_ins, c_outs))
            except LutMiss:
                if pattern.lowerable:
                    return None
                missed = True
                prices.append(as_dense)
        pays = any((price < as_dense).any() for price, as_dense in zip(prices, dense, strict=True))
        return prices if pays or not missed else None

    def _several(self) -> Layer:
        """Several groups (after a concat): indexed by every total they can reach.

        An output that depends on more than one group, or on one of the inputs, is priced at the same total when it is the input itself
        (pools, concat) and at its dense width otherwise, which can only overstate the latency.
        """
        c_in, c_out = self.operator.c_in, self.operator.c_out
        groups = tuple(group for group, _ in c_in.terms)
        totals = _totals(c_in, self.choices)
        target = c_out.terms[0][0] if len(c_out.terms) == 1 and c_out.terms[0][0] not in groups else None
        if c_in == c_out:
            costs = [diagonal[:, None] for diagonal in self.diagonal([(total, total) for total in totals])]
        else:
            dense = {group: widths[-1] for group, widths in self.choices.items()}
            outs = [c_out.at({target: w}) for w in self.choices[target]] if target else [c_out.at(dense)]
            costs = self.grid(totals, outs)
        layer = self._layer(costs, inputs=groups, output=target)
        return replace(
            layer,
            input_counts=tuple(totals),
            input_multiplicity=tuple(times for _, times in c_in.terms),
            input_fixed=c_in.fixed,
        )

    def _layer(self, costs: Sequence[np.ndarray], *, inputs: tuple[str, ...], output: str | None) -> Layer:
        latency_ns, *others = (cost[None] for cost in costs)
        return Layer(
            name=self.operator.name,
            value=np.zeros(latency_ns.shape),
            latency_ns=latency_ns,
            inputs=inputs,
            output=output,
            other_costs={limit.id: cost for limit, cost in zip(self.limits[1:], others, strict=True)},
        )


def _totals(count: ChannelCount, choices: Choices) -> list[int]:
    """Return every channel total the choices can reach, ascending; sums are built group by group, so they stay few."""
    totals = {count.fixed}
    for group, times in count.terms:
        totals = {total + times * width for total, width in product(totals, choices[group])}
    return sorted(totals)


def _thin(counts: Sequence[int], most: int) -> list[int]:
    """Return at most `most` of the ascending counts, evenly spread, both ends included."""
    if len(counts) <= most:
        return list(counts)
    return [counts[i] for i in np.unique(np.linspace(0, len(counts) - 1, most).round().astype(int))]
