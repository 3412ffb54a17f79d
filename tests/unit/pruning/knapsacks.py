"""Small knapsacks for the solver's tests: random ones with a brute force beside them, some to be solved in the head."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, combinations, product

import numpy as np

from pruning.check import Totals, evaluate
from pruning.problem import Budget, Layer, Plan, Problem, Stage, WidthChoice


def knapsack(costs: dict[str, list[int]], values: dict[str, list[float]], capacity: int) -> Problem:
    """Return independent groups: `costs[g][i]` and `values[g][i]` are those of group g at its i-th width."""
    return Problem(
        groups=tuple(WidthChoice(id=g, widths=tuple(range(1, len(cost) + 1))) for g, cost in costs.items()),
        layers=tuple(
            Layer(name=g, output=g, value=np.zeros((1, 1, len(cost))), latency_ns=np.array([[cost]]))
            for g, cost in costs.items()
        ),
        group_value={g: np.array(value) for g, value in values.items()},
        budget_ns=capacity,
    )


def removable_knapsack(costs: dict[str, list[int]], values: dict[str, list[float]], capacity: int) -> Problem:
    """Return the same groups, each in a stage of its own that may go."""
    problem = knapsack(costs, values, capacity)
    return replace(problem, stages=tuple(Stage(id=f"stage {g}", layers=(g,), groups=(g,)) for g in costs))


class RandomProblem:
    """Draws problems with every feature at once; whole or fractional values, any order of latencies."""

    def __init__(
        self, seed: int, *, num_groups: int, num_budgets: int, tightness: float, concats: bool = False
    ) -> None:
        self.random = np.random.default_rng(seed)
        self.num_budgets = num_budgets
        self.whole = bool(seed % 2)
        self.inputs = [2, 3, 3, 4] if concats else [0, 1, 1, 2, 3]
        self.groups = tuple(
            WidthChoice(
                id=f"g{g}", widths=tuple(sorted(self.random.choice(np.arange(1, 9), size, replace=False).tolist()))
            )
            for g, size in enumerate(self.random.integers(1, 4, num_groups))
        )
        self.widths = {group.id: group.widths for group in self.groups}
        self.layers = [self.layer(f"l{i}") for i in range(int(self.random.integers(num_groups, num_groups + 4)))]
        self.tightness = tightness

    def numbers(self, shape: tuple[int, ...]) -> np.ndarray:
        return self.random.integers(0, 50, shape).astype(float) if self.whole else self.random.random(shape)

    def layer(self, name: str) -> Layer:
        ids = list(self.widths)
        num_inputs = int(self.random.choice(self.inputs))
        inputs = tuple(self.random.permutation(ids)[:num_inputs].tolist())
        output = str(self.random.choice(ids)) if self.random.random() < 0.8 else None
        multiplicity: tuple[int, ...] = ()
        counts: tuple[int, ...] = ()
        num_in = 1 if not inputs else len(self.widths[inputs[0]])
        fixed = 0
        if len(inputs) > 1:
            multiplicity = tuple(self.random.integers(1, 3, len(inputs)).tolist())
            fixed = int(self.random.integers(0, 3))
            choices = product(*(self.widths[group] for group in inputs))
            sums = {fixed + sum(m * w for m, w in zip(multiplicity, choice, strict=True)) for choice in choices}
            counts = tuple(sorted(sums))
            num_in = len(counts)
        num_patterns = int(self.random.integers(1, 3))
        shape = (num_patterns, num_in, len(self.widths[output]) if output else 1)
        return Layer(
            name=name,
            inputs=inputs,
            output=output,
            value=self.numbers(shape),
            latency_ns=self.random.integers(0, 50, shape),
            input_counts=counts,
            input_multiplicity=multiplicity,
            input_fixed=fixed,
            patterns=("dense", "half")[:num_patterns],
            other_costs={f"b{k}": self.random.integers(0, 50, shape) for k in range(1, self.num_budgets)},
        )

    def stages(self) -> tuple[Stage, ...]:
        stages: list[Stage] = []
        for s in range(int(self.random.integers(0, 3))):
            free = [layer.name for layer in self.layers if all(layer.name not in stage.layers for stage in stages)]
            names = set(self.random.permutation(free)[:2].tolist())
            outside = {g for layer in self.layers if layer.name not in names for g in (*layer.inputs, layer.output)}
            inside = {g for layer in self.layers if layer.name in names for g in (*layer.inputs, layer.output)}
            stages.append(
                Stage(id=f"s{s}", layers=tuple(sorted(names)), groups=tuple(sorted(inside - outside - {None})))
            )
        return tuple(stage for stage in stages if stage.layers)

    def limit(self) -> int:
        loosest = sum(int(layer.latency_ns.max()) for layer in self.layers)
        return int(7 + loosest * self.tightness * self.random.random())

    def problem(self) -> Problem:
        stages = self.stages()
        valued = [group for group in self.groups if self.random.random() < 0.7]
        return Problem(
            groups=self.groups,
            layers=tuple(self.layers),
            group_value={group.id: self.numbers((len(group.widths),)) for group in valued},
            budget_ns=self.limit(),
            fixed_latency_ns=7,
            stages=stages,
            other_budgets=tuple(Budget(id=f"b{k}", limit=self.limit(), fixed=3) for k in range(1, self.num_budgets)),
        )


def every_choice(problem: Problem) -> Iterator[Totals]:
    """Yield the totals of every choice of stages, widths and patterns."""
    for removed in chain.from_iterable(combinations(problem.stages, n) for n in range(len(problem.stages) + 1)):
        gone = {name for stage in removed for name in stage.layers}
        inner = {group for stage in removed for group in stage.groups}
        kept = [layer for layer in problem.layers if layer.name not in gone]
        for widths in product(*((0,) if group.id in inner else group.widths for group in problem.groups)):
            named = {group.id: width for group, width in zip(problem.groups, widths, strict=True)}
            for patterns in product(*(layer.patterns for layer in kept)):
                chosen = {layer.name: pattern for layer, pattern in zip(kept, patterns, strict=True)}
                yield evaluate(problem, named, chosen, [stage.id for stage in removed])


def brute_force(problem: Problem) -> tuple[float | None, int]:
    """Return the best value within all budgets (None: nothing fits) and the least latency of any choice."""
    totals = list(every_choice(problem))
    limits = {budget.id: budget.limit for budget in problem.other_budgets}
    fitting = [
        one.value
        for one in totals
        if one.latency_ns <= problem.budget_ns and all(one.other_costs[b] <= limit for b, limit in limits.items())
    ]
    return max(fitting, default=None), min(one.latency_ns for one in totals)


def least_others(problem: Problem) -> dict[str, int]:
    """Return the least cost of any choice in every other budget."""
    totals = list(every_choice(problem))
    return {b.id: min(one.other_costs[b.id] for one in totals) for b in problem.other_budgets}


def agrees(plan: Plan, best: float | None) -> bool:
    """Whether a plan solved to gap 0 says what brute force says, with the optimum between its value and its bound."""
    if best is None:
        return plan.status == "infeasible"
    slack = 1e-9 * max(1.0, abs(best))
    return plan.status == "optimal" and abs(plan.value - best) <= slack and plan.bound >= best - slack
