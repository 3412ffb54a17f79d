"""`python -m workers.agent --server URL --device NAME`: measure on this machine for a service elsewhere."""

import argparse
import os
import signal
import sys
import time
from typing import NoReturn
from uuid import uuid4

from rich.console import Console

from lut.measure.memory import restart
from secateur.client import KEY_VARIABLE
from workers.agent.link import Link, Refused
from workers.agent.tasks import RUNTIMES, profiles
from workers.agent.work import serve

EXIT_REFUSED = 2


def main() -> int:
    """Run an agent until SIGTERM or SIGINT; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m workers.agent", description=__doc__)
    parser.add_argument("--server", required=True, help="address of the service")
    parser.add_argument("--device", required=True, help="what the service calls this machine")
    parser.add_argument("--key", default=os.environ.get(KEY_VARIABLE, ""), help="an API key of scope agent")
    parser.add_argument("--runtime", action="append", choices=RUNTIMES, help="offer this runtime; by default all here")
    parser.add_argument("--once", action="store_true", help="end after one answer")
    options = parser.parse_args()
    console = Console(soft_wrap=True, highlight=False, markup=False)

    def tell(text: str) -> None:
        console.print(f"{time.strftime('%H:%M:%S')} {text}")

    signal.signal(signal.SIGTERM, _interrupt)
    found = profiles(tuple(options.runtime or RUNTIMES))
    if not found:
        tell('No runtime is installed here: pip install "secateur[agent]"')
        return EXIT_REFUSED
    link = Link(options.server, options.key, uuid4().hex, tell)
    try:
        serve(link, options.device, found, tell, once=options.once)
    except Refused as refused:
        tell(f"The service refuses this agent: {refused}")
        return EXIT_REFUSED
    except KeyboardInterrupt:
        tell("Stopped.")
    finally:
        link.close()
    return 0


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    restart()
    sys.exit(main())
