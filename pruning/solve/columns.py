"""Columns: the undominated ways to run one piece of the network, given the widths at its border.

The elimination of `price` is run again with lists instead of maxima: every entry of a message holds all its columns
(value, costs), without those that another column dominates and those whose bound, completed by the priced rest of the
network, cannot beat the plan at hand. Kept whole this is an exact search; cut to `width` columns a step it is a beam
search that still proves a bound, because the best bound it ever drops is remembered. Reduced-cost fixing and dominance:
Dudzinski & Walukiewicz, doi:10.1016/0377-2217(87)90165-2.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pruning.solve.dominance import spread_out, undominated
from pruning.solve.master import BOUND_MARGIN, Column
from pruning.solve.order import Step
from pruning.solve.price import Priced, Pricer

JOIN_CHUNK = 1 << 19
"""Rows one join builds at a time: bounds the memory of a step."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of one table, sorted by entry."""

    start: np.ndarray
    """int64 [entries + 1]: columns of entry e are start[e] .. start[e + 1]."""
    value: np.ndarray
    """int64 [n]."""
    cost: np.ndarray
    """int64 [K, n]."""
    pattern: np.ndarray
    """int64 [n]: pattern index (tables of factors)."""
    own: np.ndarray
    """int64 [n]: choice of the eliminated variable (messages)."""
    picks: np.ndarray
    """int64 [sources, n]: the column taken of each source (messages)."""


@dataclass(kw_only=True)
class Rows:
    """Partial plans inside one step."""

    entry: np.ndarray
    """int64 [n]: entry of the step's bag."""
    bound: np.ndarray
    """float64 [n]: no whole plan through the row has a larger value."""
    value: np.ndarray
    cost: np.ndarray
    picks: list[np.ndarray]

    def take(self, index: np.ndarray) -> "Rows":
        return Rows(
            entry=self.entry[index],
            bound=self.bound[index],
            value=self.value[index],
            cost=self.cost[:, index],
            picks=[pick[index] for pick in self.picks],
        )

    def extended(self, parent: np.ndarray, pick: np.ndarray, bound: np.ndarray, table: Columns) -> "Rows":
        """Return new rows: row parent[i] with column pick[i] of the table."""
        return Rows(
            entry=self.entry[parent],
            bound=bound,
            value=self.value[parent] + table.value[pick],
            cost=self.cost[:, parent] + table.cost[:, pick],
            picks=[*(earlier[parent] for earlier in self.picks), pick],
        )


def stack(parts: list[Rows]) -> Rows:
    """Return the rows of all parts, in order."""
    if len(parts) == 1:
        return parts[0]
    return Rows(
        entry=np.concatenate([part.entry for part in parts]),
        bound=np.concatenate([part.bound for part in parts]),
        value=np.concatenate([part.value for part in parts]),
        cost=np.concatenate([part.cost for part in parts], axis=1),
        picks=[np.concatenate(same) for same in zip(*(part.picks for part in parts), strict=True)],
    )


@dataclass(frozen=True, kw_only=True)
class Found:
    """Outcome of one search."""

    best: Column | None
    """The best plan of at least the threshold within the limits."""
    bound: float
    """No plan has a larger value, unless it is below the threshold."""


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """A search cut short: open variables, and columns of the tables between them."""

    tables: dict[int, Columns]
    """Open tables by index: factors, then messages."""
    variables: tuple[int, ...]
    all_tables: list[Columns | None]


class Search:
    """Searches one graph at fixed multipliers."""

    def __init__(self, pricer: Pricer, multipliers: np.ndarray) -> None:
        self.pricer = pricer
        self.graph = pricer.graph
        self.multipliers = multipliers
        self.active = np.flatnonzero(multipliers)
        """Budgets that have a price."""
        self.priced: Priced = pricer.price(multipliers)
        self.outside = pricer.outside(self.priced)
        self.offset = float(multipliers @ self.graph.limits)
        self.margin = BOUND_MARGIN * (abs(self.priced.best) + abs(self.offset))

    def run(self, threshold: int, width: int) -> Found:
        """Return the best plan with value >= threshold, keeping at most `width` partial plans a step."""
        self.threshold = threshold - self.margin
        self.width = width
        self.dropped = -np.inf
        tables = [self._of_factor(f) for f in range(self.pricer.num_factors)]
        for s, step in enumerate(self.pricer.steps):
            rows = self._open(s)
            for source in self._cheapest_first(step):
                rows = self._join(rows, tables[source], source, step)
            tables.append(self._message(rows, step))
        return self._close(tables)

    def pieces(self, threshold: int, width: int) -> "Pieces":
        """Return what is left to decide when only steps of at most `width` partial plans are taken: nothing is dropped.

        Every plan of value >= threshold is one choice of the open variables and one column of each open table.
        """
        self.threshold = threshold - self.margin
        self.width = width
        num_factors = self.pricer.num_factors
        tables: list[Columns | None] = [self._of_factor(f) for f in range(num_factors)]
        closed: set[int] = set()
        for s, step in enumerate(self.pricer.steps):
            sources = {source: tables[source] for source in self._cheapest_first(step)}
            self.dropped = -np.inf
            rows = self._open(s)
            for source, table in sources.items():
                if table is not None and self.dropped == -np.inf:
                    rows = self._join(rows, table, source, step)
            whole = self.dropped == -np.inf and all(table is not None for table in sources.values())
            tables.append(self._message(rows, step) if whole else None)
            closed |= set(step.sources) if whole else set()
        return Pieces(
            tables={t: table for t, table in enumerate(tables) if table is not None and t not in closed},
            variables=tuple(
                step.variable for s, step in enumerate(self.pricer.steps) if tables[num_factors + s] is None
            ),
            all_tables=tables,
        )

    def _of_factor(self, f: int) -> Columns:
        factor = self.graph.factors[f]
        num_patterns, entries = len(factor.value), int(np.prod(factor.value.shape[1:], dtype=np.int64))
        value = factor.value.reshape(num_patterns, entries).T.ravel()
        cost = factor.cost.reshape(len(factor.cost), num_patterns, entries).swapaxes(1, 2).reshape(len(factor.cost), -1)
        entry = np.repeat(np.arange(entries), num_patterns)
        pattern = np.tile(np.arange(num_patterns), entries)
        keep = undominated(entry, value, cost) if num_patterns > 1 else np.arange(entries)
        none = np.zeros(0, dtype=np.int64)
        return Columns(
            start=np.searchsorted(entry[keep], np.arange(entries + 1)),
            value=value[keep],
            cost=cost[:, keep],
            pattern=pattern[keep],
            own=none,
            picks=none[None],
        )

    def _open(self, s: int) -> Rows:
        """Return one empty row per entry of the bag that may still beat the threshold."""
        completed = self.pricer.completed(self.priced, self.outside, s).ravel() + self.offset
        entry = np.flatnonzero(completed >= self.threshold)
        zero = np.zeros(len(entry), dtype=np.int64)
        cost = np.zeros((len(self.graph.limits), len(entry)), dtype=np.int64)
        return self._cut(Rows(entry=entry, bound=completed[entry], value=zero, cost=cost, picks=[]))

    def _cheapest_first(self, step: Step) -> tuple[int, ...]:
        """Sources in the order they are joined: the picks of a row follow it."""
        return tuple(sorted(step.sources))

    def _join(self, rows: Rows, table: Columns, source: int, step: Step) -> Rows:
        """Return the rows extended by every column of the source at their entry."""
        at = self.pricer.entries(source, step)[rows.entry]
        first, last = table.start[at], table.start[at + 1]
        rest = rows.bound - self.priced.tables[source].ravel()[at]
        reach = np.cumsum(last - first)
        cuts = np.searchsorted(reach, np.arange(JOIN_CHUNK, int(reach[-1]) if len(reach) else 0, JOIN_CHUNK))
        joined: list[Rows] = []
        for part in np.split(np.arange(len(at)), np.unique(cuts)):
            count = (last - first)[part]
            parent = np.repeat(part, count)
            pick = np.arange(len(parent)) + np.repeat(first[part] - (np.cumsum(count) - count), count)
            bound = rest[parent] + table.value[pick] - self.multipliers @ table.cost[:, pick]
            keep = bound >= self.threshold
            joined.append(rows.extended(parent[keep], pick[keep], bound[keep], table))
            if sum(len(one.entry) for one in joined) > JOIN_CHUNK:
                joined = [self._trim(joined)]
        return self._trim(joined)

    def _trim(self, parts: list[Rows]) -> Rows:
        rows = stack(parts)
        return self._cut(rows.take(undominated(rows.entry, rows.value, rows.cost)))

    def _cut(self, rows: Rows) -> Rows:
        if len(rows.entry) <= self.width:
            return rows
        order = np.argsort(-rows.bound, kind="stable")
        tied = rows.bound[order[self.width - 1]] - rows.bound[order[self.width]] <= self.margin
        if len(self.active) > 1 or (tied and len(self.active)):
            # Where several budgets bind, the best bounds have costs that trade one for another; among ties any cost is as likely.
            # Few of them end just within the budgets, so costs are kept apart.
            order = order[spread_out(rows.cost[self.active][:, order], self.width)]
        kept = np.sort(order[: self.width])
        self.dropped = max(self.dropped, float(rows.bound[order[self.width :]].max()))
        return rows.take(kept)

    def _message(self, rows: Rows, step: Step) -> Columns:
        """Return the columns of the step's message: undominated rows per entry of its scope."""
        own, entry = self.pricer.split_entries(rows.entry, step)
        keep = undominated(entry, rows.value, rows.cost)
        entries = int(np.prod([self.graph.num_choices[v] for v in step.scope], dtype=np.int64))
        picks = [pick[keep] for pick in rows.picks]
        return Columns(
            start=np.searchsorted(entry[keep], np.arange(entries + 1)),
            value=rows.value[keep],
            cost=rows.cost[:, keep],
            pattern=np.zeros(0, dtype=np.int64),
            own=own[keep],
            picks=np.array(picks, dtype=np.int64).reshape(len(picks), len(keep)),
        )

    def _close(self, tables: list[Columns]) -> Found:
        """Join the parts of the network that do not touch, and pick the best row within the limits."""
        num_budgets = len(self.graph.limits)
        rows = Rows(
            entry=np.zeros(1, dtype=np.int64),
            bound=np.array([self.priced.best + self.offset]),
            value=np.zeros(1, dtype=np.int64),
            cost=np.zeros((num_budgets, 1), dtype=np.int64),
            picks=[],
        )
        for root in self.pricer.roots:
            rows = self._join(
                rows, tables[root], root, Step(variable=-1, scope=(), sources=(root,), is_total=False, entries=1)
            )
        fits = np.flatnonzero((rows.cost <= self.graph.limits[:, None]).all(axis=0) & (rows.value >= self.threshold))
        best = None
        if len(fits):
            row = fits[rows.value[fits].argmax()]
            picks = {root: int(pick[row]) for root, pick in zip(self.pricer.roots, rows.picks, strict=True)}
            best = self.trace(tables, picks, np.zeros(len(self.graph.num_choices), dtype=np.int64))
        bound = self.dropped + self.margin
        return Found(best=best, bound=bound if best is None else max(bound, float(best.value)))

    def trace(self, tables: Sequence[Columns | None], picks: dict[int, int], choice: np.ndarray) -> Column:
        """Return the whole plan behind one picked column per open table and the choices of the open variables."""
        num_factors = self.pricer.num_factors
        pattern = np.zeros(num_factors, dtype=np.int64)
        for s in reversed(range(len(self.pricer.steps))):
            step, table = self.pricer.steps[s], tables[num_factors + s]
            if table is not None:
                picked = picks.pop(num_factors + s)
                choice[step.variable] = table.own[picked]
                picks.update(zip(self._cheapest_first(step), table.picks[:, picked].tolist(), strict=True))
        for step in reversed(self.pricer.steps):
            if step.is_total:
                total = self.pricer.total_of[step.variable]
                choice[step.variable] = total.index[choice[total.left], choice[total.right]]
        for f, picked in picks.items():
            columns = tables[f]
            assert columns is not None
            pattern[f] = columns.pattern[picked]
        value, cost = self.pricer.totals(choice, pattern)
        return Column(choice=choice, pattern=pattern, value=value, cost=cost)
