"""What all graphs of a problem share, however finely they tell the totals of concatenations apart."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from pruning.problem import Layer, Problem
from pruning.solve.factors import VALUE_CEILING, Outline
from pruning.solve.totals import Classes, Concat, Terms

TINIEST_UNIT = float(np.finfo(np.float64).tiny)
LIMIT_CEILING = 2**60
"""A larger budget is no limit: costs stay below `problem.COST_CEILING`."""

Levels = Mapping[Terms, int]
"""Index into `totals.BLURS` per concatenation: how finely its totals are told apart."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The variables of a graph."""

    num_choices: tuple[int, ...]
    classes: dict[Terms, Classes]
    variable: dict[Terms, int]
    """Of every concatenation whose totals are told apart."""
    sums: tuple[tuple[int, Terms, bool], ...]
    """(variable, terms, whether its choices are the classes and not every count) of every total, parts first."""
    sum_variable: dict[Terms, int]
    """Of every total with one choice per count."""


class Blueprint:
    """Everything about a problem's graphs that does not depend on how finely totals are told apart."""

    def __init__(self, problem: Problem, centre: Mapping[str, int] | None = None) -> None:
        """Prepare graphs whose coarse tables are best around the widths `centre`."""
        self.problem = problem
        self.centre = centre or {}
        self.group_index = {group.id: i for i, group in enumerate(problem.groups)}
        self.stage_of_layer = {name: s for s, stage in enumerate(problem.stages) for name in stage.layers}
        self.stage_of_group = {group_id: s for s, stage in enumerate(problem.stages) for group_id in stage.groups}
        self.unit = _unit(problem)
        budgets = [problem.budget_ns - problem.fixed_latency_ns, *(b.limit - b.fixed for b in problem.other_budgets)]
        self.limits = np.array([max(-LIMIT_CEILING, min(limit, LIMIT_CEILING)) for limit in budgets], dtype=np.int64)
        self.counts = cache(self._counts)
        self.split = cache(self._split)
        reading: defaultdict[Terms, list[Layer]] = defaultdict(list)
        for layer in problem.layers:
            if len(layer.inputs) > 1:
                reading[self.terms(layer)].append(layer)
        self.parts = {terms: self._parts(terms) for terms in reading}
        self.concats = {terms: self._concat(terms, layers) for terms, layers in reading.items()}

    @cached_property
    def source(self) -> list[str | None]:
        """Per group: the one group that all layers bringing it read, None where there are several or none."""
        sources: defaultdict[str, set[str | None]] = defaultdict(set)
        for layer in self.problem.layers:
            if layer.output is not None and layer.inputs:
                sources[layer.output].add(layer.inputs[0] if len(layer.inputs) == 1 else None)
        return [next(iter(sources[g.id])) if len(sources[g.id]) == 1 else None for g in self.problem.groups]

    def _split(self, terms: Terms) -> tuple[Terms, Terms]:
        """Return the two partial sums of a total. Groups behind one common input group are summed first: they go together."""
        source = self.source[terms[-1][0]]
        alike = tuple(term for term in terms if source is not None and self.source[term[0]] == source)
        right = alike if 1 < len(alike) < len(terms) else terms[-1:]
        return tuple(term for term in terms if term not in right), right

    def terms(self, layer: Layer) -> Terms:
        """Return what the layer's inputs are a sum of."""
        pairs = zip(layer.inputs, layer.input_multiplicity, strict=True)
        return tuple(sorted((self.group_index[group_id], times) for group_id, times in pairs))

    def stacked(self, layer: Layer) -> np.ndarray:
        """Return int64 [1 + K, P, n_in, n_out]: scaled value, rounded up so that bounds hold, then the costs."""
        others = [layer.other_costs.get(b.id, np.zeros_like(layer.latency_ns)) for b in self.problem.other_budgets]
        return np.stack([self.scaled(layer.value), layer.latency_ns, *others]).astype(np.int64)

    def scaled(self, value: np.ndarray) -> np.ndarray:
        """Return values in whole units, rounded up."""
        return np.ceil(np.asarray(value, dtype=np.float64) / self.unit).astype(np.int64)

    def stage(self, layer: Layer) -> int | None:
        """Return the variable of the layer's stage."""
        stage = self.stage_of_layer.get(layer.name)
        return None if stage is None else len(self.problem.groups) + stage

    def outline(self, levels: Levels) -> tuple[Outline, dict[int, set[Terms]]]:
        """Return what the graph would look like without its tables, and the concatenations that every variable serves."""
        layout = self.layout(levels)
        scopes = []
        for layer in self.problem.layers:
            row: int | None = self.group_index[layer.inputs[0]] if len(layer.inputs) == 1 else None
            if len(layer.inputs) > 1:
                row = layout.variable.get(self.terms(layer))
            column = None if layer.output is None else self.group_index[layer.output]
            touched = {row, column, self.stage(layer)} - {None}
            scopes.append(tuple(v for v in touched if v is not None and layout.num_choices[v] > 1))
        serves: defaultdict[int, set[Terms]] = defaultdict(set)
        for terms in layout.variable:
            serves[layout.variable[terms]].add(terms)
            for part in self.parts[terms] & set(layout.sum_variable):
                serves[layout.sum_variable[part]].add(terms)
        outline = Outline(num_choices=layout.num_choices, scopes=tuple(scopes), totals=self._parts_of_sums(layout))
        return outline, serves

    def layout(self, levels: Levels) -> Layout:
        """Return the variables of the graph at these levels."""
        num_choices = [len(group.widths) for group in self.problem.groups] + [2] * len(self.problem.stages)
        classes: dict[Terms, Classes] = {}
        parts: set[Terms] = set()
        for terms in sorted(self.concats, key=len, reverse=True):
            # What other totals are summed from stays as it is, unless it makes no difference.
            classes[terms] = self.concats[terms].classes(levels[terms], all_or_one=terms in parts)
            if len(classes[terms].start) > 1:
                parts |= self.parts[terms]
        sums: list[tuple[int, Terms, bool]] = []
        variable, sum_variable = {}, {}
        for terms in sorted(parts, key=len):
            num_choices.append(len(self.counts(terms)))
            sum_variable[terms] = len(num_choices) - 1
            sums.append((len(num_choices) - 1, terms, False))
        for terms, kept in classes.items():
            if len(kept.start) > 1 and terms in sum_variable:
                variable[terms] = sum_variable[terms]
            elif len(kept.start) > 1:
                num_choices.append(len(kept.start))
                variable[terms] = len(num_choices) - 1
                sums.append((len(num_choices) - 1, terms, True))
        return Layout(
            num_choices=tuple(num_choices),
            classes=classes,
            variable=variable,
            sums=tuple(sums),
            sum_variable=sum_variable,
        )

    def side(self, layout: Layout, terms: Terms) -> tuple[int, np.ndarray]:
        """Return the variable of a partial sum and the channels of its choices."""
        return layout.sum_variable[terms] if len(terms) > 1 else terms[0][0], self.counts(terms)

    def _parts_of_sums(self, layout: Layout) -> tuple[tuple[int, int, int], ...]:
        triples = []
        for variable, terms, _ in layout.sums:
            left, right = (self.side(layout, side)[0] for side in self.split(terms))
            triples.append((left, right, variable))
        return tuple(triples)

    def _parts(self, terms: Terms) -> set[Terms]:
        """Return every partial sum of several groups that a total is summed from."""
        parts: set[Terms] = set()
        pending = [terms]
        while pending:
            sides = [side for side in self.split(pending.pop()) if len(side) > 1]
            parts.update(sides)
            pending.extend(sides)
        for part in sorted(parts, key=len):
            self.counts(part)  # each from two that are known: no deep recursion
        return parts

    def _counts(self, terms: Terms) -> np.ndarray:
        """Return every total of `multiplicity * width` over the groups, ascending int64."""
        if len(terms) == 1:
            return np.asarray(terms[0][1] * np.array(self.problem.groups[terms[0][0]].widths))
        left, right = (self.counts(side) for side in self.split(terms))
        return np.unique(left[:, None] + right)

    def _concat(self, terms: Terms, layers: list[Layer]) -> Concat:
        counts = self.counts(terms)
        return Concat(
            counts=counts,
            tables={
                layer.name: self.stacked(layer)[:, :, np.searchsorted(layer.input_counts, counts + layer.input_fixed)]
                for layer in layers
            },
            scale=np.array([VALUE_CEILING, *np.maximum(1, self.limits)], dtype=np.float64),
            centre=sum(times * self.centre.get(self.problem.groups[g].id, 0) for g, times in terms),
            outs=tuple(self._out(layer) for layer in layers),
        )

    def _out(self, layer: Layer) -> int:
        """Return the output choice of the layer at the centre, a middle one where there is none."""
        size: int = layer.value.shape[2]
        if layer.output is None or size == 1 or not self.centre.get(layer.output):
            return size // 2
        widths = self.problem.groups[self.group_index[layer.output]].widths
        return min(size - 1, int(np.searchsorted(widths, self.centre[layer.output])))


def _unit(problem: Problem) -> float:
    tables = [layer.value for layer in problem.layers] + list(problem.group_value.values())
    total = sum(float(np.abs(table).max(initial=0.0)) for table in tables)
    # frexp gives total < 2**exponent: a power of two keeps whole numbers whole.
    return max(TINIEST_UNIT, float(2.0 ** (np.frexp(total)[1] - np.log2(VALUE_CEILING)))) if total else 1.0
