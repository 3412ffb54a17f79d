"""From a problem to its graph of factors."""

from collections import defaultdict

import numpy as np

from pruning.problem import Layer, Problem
from pruning.solve.blueprint import Blueprint, Levels
from pruning.solve.factors import Factor, Graph, Total
from pruning.solve.totals import EXACT, Terms


def build_graph(problem: Problem) -> Graph:
    """Return the problem as factors; tables without a choice of their own are added into a table that covers them.

    Channel totals whose tables are alike are one choice.
    """
    blueprint = Blueprint(problem)
    return graph_at(blueprint, dict.fromkeys(blueprint.concats, EXACT))


def graph_at(blueprint: Blueprint, levels: Levels) -> Graph:
    """Return the graph that tells totals apart as finely as `levels` say: a bound unless all of them are `EXACT`."""
    return _Builder(blueprint, levels).graph()


class _Builder:
    """Collects the factors of one graph; merges what has no choice of its own."""

    def __init__(self, blueprint: Blueprint, levels: Levels) -> None:
        self.plan = blueprint
        self.problem = blueprint.problem
        self.layout = blueprint.layout(levels)
        self.exact = all(level == EXACT for level in levels.values())
        self.num_choices = self.layout.num_choices
        self.num_tables = 1 + len(blueprint.limits)
        self.slopes: defaultdict[tuple[int, int | None], np.ndarray] = defaultdict(
            lambda: np.zeros(self.num_tables, dtype=np.int64)
        )
        self.factors: list[Factor] = []

    def graph(self) -> Graph:
        # A constant nothing: the graph has a table even when every group is frozen. It is absorbed otherwise.
        self.add((), np.zeros((self.num_tables, 1), dtype=np.int64), None)
        self.add_groups()
        for layer in self.problem.layers:
            self.add_layer(layer)
        self.add_slopes()
        return Graph(
            problem=self.problem,
            num_choices=self.num_choices,
            factors=_absorb(self.factors),
            totals=tuple(self.total(*one) for one in self.layout.sums),
            limits=self.plan.limits,
            unit=self.plan.unit,
            exact=self.exact,
        )

    def add_groups(self) -> None:
        for group_id, value in self.problem.group_value.items():
            table = np.zeros((self.num_tables, 1, len(value)), dtype=np.int64)
            table[0, 0] = self.plan.scaled(value)
            stage = self.plan.stage_of_group.get(group_id)
            variable = None if stage is None else len(self.problem.groups) + stage
            self.add((self.plan.group_index[group_id],), table, variable)

    def add_layer(self, layer: Layer) -> None:
        stage = self.plan.stage(layer)
        row = column = None
        if len(layer.inputs) > 1:
            terms = self.plan.terms(layer)
            table, slope = self.plan.concats[terms].merged(layer.name, self.layout.classes[terms])
            row = self.layout.variable.get(terms)
            for group, times in terms:
                self.slopes[group, stage] += times * slope
        else:
            table = self.plan.stacked(layer)
            if layer.inputs and table.shape[2] > 1:
                row = self.plan.group_index[layer.inputs[0]]
        if layer.output is not None and table.shape[3] > 1:
            column = self.plan.group_index[layer.output]
        if row is None:
            table = table[:, :, 0]
        if column is None:
            table = table[..., 0]
        elif row == column:
            table, row = np.diagonal(table, axis1=2, axis2=3), None
        elif row is not None and row > column:
            table, row, column = table.swapaxes(2, 3), column, row
        scope = tuple(variable for variable in (row, column) if variable is not None)
        self.add(scope, table, stage, ((layer.name, layer.patterns),) if len(layer.patterns) > 1 else ())

    def add_slopes(self) -> None:
        """Add what the totals cost per channel, taken out of their tables, to the groups that bring the channels."""
        for (group, stage), slope in self.slopes.items():
            if slope.any():
                widths = np.array(self.problem.groups[group].widths)
                self.add((group,), (slope[:, None] * widths)[:, None], stage)

    def total(self, variable: int, terms: Terms, classed: bool) -> Total:
        (left, left_counts), (right, right_counts) = (
            self.plan.side(self.layout, side) for side in self.plan.split(terms)
        )
        counts = self.plan.counts(terms)
        start = self.layout.classes[terms].start if classed else np.arange(len(counts))
        index = np.searchsorted(counts, left_counts[:, None] + right_counts)
        return Total(
            left=left,
            right=right,
            out=variable,
            index=np.searchsorted(start, index, side="right") - 1,
            counts=(tuple(left_counts.tolist()), tuple(right_counts.tolist())),
            least=tuple(counts[start].tolist()),
            most=tuple(counts[np.append(start[1:], len(counts)) - 1].tolist()),
        )

    def add(
        self,
        scope: tuple[int, ...],
        table: np.ndarray,
        stage: int | None,
        layers: tuple[tuple[str, tuple[str, ...]], ...] = (),
    ) -> None:
        """Add int64 [1 + K, P, n_v for v in scope]: value and costs."""
        if stage is not None:
            # The stage's axis: zeros where it is removed, the table where it stays.
            at = sum(variable < stage for variable in scope)
            scope = (*scope[:at], stage, *scope[at:])
            table = np.stack([np.zeros_like(table), table], axis=2 + at)
        free = [variable for variable in scope if self.num_choices[variable] > 1]
        table = table.reshape(*table.shape[:2], *(self.num_choices[variable] for variable in free))
        self.factors.append(
            Factor(
                scope=tuple(free),
                value=np.ascontiguousarray(table[0]),
                cost=np.ascontiguousarray(table[1:]),
                layers=layers,
            )
        )


def _absorb(factors: list[Factor]) -> tuple[Factor, ...]:
    """Add every factor with a single pattern into one whose scope covers its own, where there is one."""
    kept: list[Factor] = []
    touching: defaultdict[int, list[int]] = defaultdict(list)
    for factor in sorted(factors, key=lambda f: (-len(f.scope), len(f.layers) == 0)):
        near = touching[factor.scope[0]] if factor.scope else range(len(kept))
        hosts = (i for i in near if set(factor.scope) <= set(kept[i].scope))
        at = None if factor.layers else next(iter(hosts), None)
        if at is None:
            for variable in factor.scope:
                touching[variable].append(len(kept))
            kept.append(factor)
            continue
        host = kept[at]
        shape = [n if v in factor.scope else 1 for v, n in zip(host.scope, host.value.shape[1:], strict=True)]
        kept[at] = Factor(
            scope=host.scope,
            value=host.value + factor.value.reshape(1, *shape),
            cost=host.cost + factor.cost.reshape(factor.cost.shape[0], 1, *shape),
            layers=host.layers,
        )
    return tuple(kept)
