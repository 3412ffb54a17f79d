"""Faults thrown at a real service, run after run; see `python -m tests.faults --help`."""
