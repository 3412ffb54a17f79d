"""Numbers as people read them."""

import math

UNITS = ("", "k", "M", "G", "T")


def format_ms(value: float | None) -> str:
    """Return milliseconds to three significant digits, or a dash."""
    if value is None:
        return "–"
    digits = 0 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(digits, 4)}f}"


def format_percent(value: float | None, digits: int = 1) -> str:
    """Return a share as percent, or a dash."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def format_points(value: float | None) -> str:
    """Return a difference of shares in percentage points with its sign, or a dash."""
    return "–" if value is None else f"{100 * value:+.1f}".replace("-", "−")


def format_short(value: float | None) -> str:
    """Return a number to three digits with a unit of thousands: 4.09 G, 853 k, 0.0312."""
    if value is None:
        return "–"
    power = 0 if value < 1000 else min(len(UNITS) - 1, int(math.log10(value) / 3))
    scaled = value / 1000**power
    text = f"{scaled:.0f}" if scaled >= 100 else f"{scaled:.3g}"
    return f"{text} {UNITS[power]}".strip()


def format_figure(value: float | None) -> str:
    """Return a number to three significant digits, thousands apart: 0.0312, 4.09, 8,530."""
    return "–" if value is None else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def format_times(value: float | None, divisor: float = 1.0) -> str:
    """Return a ratio, `value / divisor`, as 3.05×, or a dash where there is none."""
    return "–" if value is None or not divisor else f"{value / divisor:.2f}×"
