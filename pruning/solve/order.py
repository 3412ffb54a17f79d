"""In which order the variables of a graph are eliminated, and whether its tables then stay small enough.

Non-serial dynamic programming: Bertele & Brioschi (1972); bucket elimination: Dechter, doi:10.1016/S0004-3702(99)00059-4.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pruning.solve.factors import Outline

ENTRIES_CEILING = 1 << 25
"""Entries of all tables elimination may build (8 bytes each); a graph that needs more does not split."""
SMALL_TABLES = (0, 1 << 12, 1 << 16)
"""Tables up to this size are eliminated whenever they can be, larger ones from the end of the network on."""

Rank = Callable[[int, int], tuple[float, float]]
"""Of a variable and the size of its joint table: the lowest goes first."""


class DoesNotSplitError(Exception):
    """Eliminating this graph needs more table entries than the ceiling."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """Elimination of one variable: all tables that contain it become one message without it."""

    variable: int
    scope: tuple[int, ...]
    """Variables of the message, ascending."""
    sources: tuple[int, ...]
    """Tables joined: factors by index, then messages (number of factors + step index)."""
    is_total: bool
    """Whether the variable is a function of two others and is substituted instead of maximised."""
    entries: int
    """Of the joint table."""


def cheapest_order(outline: Outline, ceiling: float = ENTRIES_CEILING) -> tuple[Step, ...]:
    """Return the cheapest of some orders: smallest joint table first, and last layer first but for small tables.

    A total goes before the two variables it is made of, so that it never needs an axis beside theirs. Raises
    DoesNotSplitError when every order passes the ceiling.
    """
    smalls = SMALL_TABLES if outline.totals else ()
    orders = [_ordered(outline, ceiling, lambda variable, size: (size, variable))]
    orders += [order_from_the_end(outline, ceiling, small) for small in smalls]
    within = [order for order in orders if order is not None]
    if not within:
        raise DoesNotSplitError(f"no order of elimination stays within {ceiling} table entries")
    return min(within, key=num_entries)


def order_from_the_end(outline: Outline, ceiling: float, small: int = SMALL_TABLES[1]) -> tuple[Step, ...] | None:
    """Return the order that takes small tables first and otherwise the last layer; None when it passes the ceiling."""
    place: dict[int, float] = {}
    for left, right, out in outline.totals:
        place[out] = max(place.get(left, left), place.get(right, right)) + 0.5
    return _ordered(
        outline,
        ceiling,
        lambda variable, size: (-math.inf, size) if size <= small else (-place.get(variable, variable), size),
    )


def num_entries(steps: Iterable[Step]) -> int:
    """Return the entries of all joint tables."""
    return sum(step.entries for step in steps)


def _ordered(outline: Outline, ceiling: float, rank: Rank) -> tuple[Step, ...] | None:
    """Return the steps, lowest rank first; None when their joint tables together pass the ceiling."""
    num_choices = outline.num_choices
    parts = {out: {left, right} for left, right, out in outline.totals}
    held = Counter(part for both in parts.values() for part in both)
    tables = {t: set(scope) for t, scope in enumerate(outline.scopes)}
    tables_of: list[set[int]] = [set() for _ in num_choices]
    for t, scope in tables.items():
        for v in scope:
            tables_of[v].add(t)
    scopes: list[set[int]] = [set() for _ in num_choices]
    ranks: dict[int, tuple[float, float]] = {}
    entries = [0] * len(num_choices)

    def look(variable: int) -> None:
        scope = set().union(*(tables[t] for t in tables_of[variable]))
        if scope and variable in parts:
            scope |= parts[variable]
        scopes[variable] = scope - {variable}
        own = 1 if variable in parts else num_choices[variable]
        entries[variable] = own * math.prod(num_choices[v] for v in scopes[variable])
        ranks[variable] = rank(variable, entries[variable])

    for variable in range(len(num_choices)):
        look(variable)
    steps: list[Step] = []
    total = 0
    while ranks:
        variable = min((v for v in ranks if not held[v]), key=ranks.__getitem__)
        total += entries[variable]
        if total > ceiling:
            return None
        message, scope, sources = len(outline.scopes) + len(steps), scopes[variable], tuple(sorted(tables_of[variable]))
        steps.append(
            Step(
                variable=variable,
                scope=tuple(sorted(scope)),
                sources=sources,
                is_total=variable in parts,
                entries=entries[variable],
            )
        )
        for t in sources:
            for v in tables.pop(t):
                tables_of[v].discard(t)
        tables[message] = scope
        held.subtract(parts.get(variable, ()))
        del ranks[variable]
        # A message may reach variables that had no table with this one (the parts of a total): they are refreshed too.
        for v in scope:
            tables_of[v].add(message)
        for v in scope:
            look(v)
    return tuple(steps)
