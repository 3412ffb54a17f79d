"""The client is light, and says what it needs when asked for more."""

import subprocess
import sys
from pathlib import Path

import secateur

ROOT = Path(__file__).parents[3]
HEAVY = ("torch", "numpy", "fastapi", "starlette", "uvicorn", "sqlalchemy", "dbos", "ortools", "onnxruntime", "onnx")


def modules_after(statement: str) -> set[str]:
    """Names of the modules a fresh interpreter has loaded after a statement."""
    code = f"{statement}; import sys; print(*sys.modules)"
    return set(
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split()
    )


def test_client_and_command_line_load_nothing_heavy() -> None:
    loaded = modules_after("import secateur.cli; from secateur import Client, Job, SecateurError")
    assert not loaded & set(HEAVY)
    assert not loaded & {"app", "lut", "pruning", "workers"}


def test_bare_import_loads_nothing_at_all() -> None:
    assert not modules_after("import secateur") & {"httpx", "pydantic", "typer", "rich"}


def test_wire_schemas_come_without_an_http_client() -> None:
    loaded = modules_after("import secateur.schemas")
    assert "pydantic" in loaded and not loaded & {"httpx", "typer", "rich"}


def test_every_public_name_loads() -> None:
    for name in secateur.__all__:
        assert getattr(secateur, name).__name__ == name
