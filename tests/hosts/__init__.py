"""Two hosts and a network that fails between them; see `python -m tests.hosts --help`."""
