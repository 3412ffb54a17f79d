"""`python -m app.documentation`: the tables of settings, error codes and metrics, as app/README.md shows them."""

import sys
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from app.metrics import METRICS
from app.problems import PROBLEMS
from app.settings import GIB, MIB, Settings

README = Path(__file__).parent / "README.md"


def settings_table() -> str:
    """Every setting with its default, as Markdown."""
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        lines.append(f"| `SECATEUR_{name.upper()}` | {_default(field)} | {field.description} |")
    return "\n".join(lines)


def problems_table() -> str:
    """Every error code with its status, as Markdown."""
    lines = ["| code | status | meaning |", "|---|---|---|"]
    # A bar inside a cell would end it, also between backticks.
    lines += [
        f"| `{code}` | {kind.status} | {kind.meaning.replace('|', chr(92) + '|')} |" for code, kind in PROBLEMS.items()
    ]
    return "\n".join(lines)


def metrics_table() -> str:
    """Every metric with its labels and unit, as Markdown."""
    lines = ["| metric | kind | unit | labels | meaning |", "|---|---|---|---|---|"]
    for name, kind in METRICS.items():
        labels = ", ".join(f"`{label}`" for label in kind.labels)
        lines.append(f"| `{name}` | {kind.kind} | {kind.unit} | {labels} | {kind.meaning} |")
    return "\n".join(lines)


def updated(text: str) -> str:
    """`text` with the tables between its markers brought up to date."""
    for name, table in (("settings", settings_table()), ("problems", problems_table()), ("metrics", metrics_table())):
        before, marker, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("\n<!-- end -->")
        text = before + marker + table + end + after
    return text


def _default(field: FieldInfo) -> str:
    value: Any = field.default
    if isinstance(field.json_schema_extra, dict):  # a default that differs between machines
        value = field.json_schema_extra.get("shown", value)
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, int) and value and value % GIB == 0:
        return f"{value // GIB} GiB"
    if isinstance(value, int) and value and value % MIB == 0:
        return f"{value // MIB} MiB"
    return f"`{value}`" if value not in ("", ()) else ""


if __name__ == "__main__":
    README.write_text(updated(README.read_text()))
    sys.exit(0)
