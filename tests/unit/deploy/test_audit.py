"""The verdict of the dependency audit."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
spec = importlib.util.spec_from_file_location("audit", ROOT / "deploy" / "audit.py")
assert spec is not None and spec.loader is not None
audit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(audit)

FINE = {"name": "fine", "version": "1.0", "vulns": []}
FLAWED = {"name": "flawed", "version": "2.0", "vulns": [{"id": "CVE-1", "fix_versions": ["2.1"], "aliases": []}]}
SKIPPED = {"name": "odd", "skip_reason": "Dependency not found"}


@pytest.mark.parametrize(
    ("packages", "code", "said"),
    [
        ([FINE], 0, "1 packages, no known vulnerability"),
        ([FINE, FLAWED], 1, "flawed 2.0: CVE-1, mended in 2.1"),
        ([FINE, SKIPPED], 3, "1 of 2 packages are unknown"),
        ([SKIPPED, FLAWED], 1, "flawed 2.0: CVE-1"),
        ([], 3, "0 of 0 packages are unknown"),
    ],
)
def test_what_was_not_looked_up_is_not_called_safe(packages: list[dict[str, Any]], code: int, said: str) -> None:
    found, sentences = audit.verdict(packages)
    assert found == code and sentences[0].startswith(said)
