"""Evidence: every module here without a leading underscore is one bench, run as `python -m bench <name>`."""
