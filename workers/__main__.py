"""`python -m workers --slot 0 --device local`: one worker process, which owns one physical device of this machine."""

import argparse
import os
import sys

from app.logs import configure_logs
from app.settings import Settings
from lut.measure.memory import environment
from workers.device import UnknownDevice, describe
from workers.locks import SlotTaken
from workers.pipeline import PRUNE
from workers.worker import run_worker

EXIT_USAGE = 2


def main() -> int:
    """Run a worker until SIGTERM or SIGINT; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m workers", description=__doc__)
    parser.add_argument("--slot", type=int, default=0, help="number of this worker on this machine")
    parser.add_argument("--device", default="local", help="physical device it measures and trains on")
    parser.add_argument("--class", dest="device_class", help="queue it takes jobs from; by default the device's")
    options = parser.parse_args()
    os.environ.update(environment(os.environ))  # for its children, which measure
    settings = Settings()
    configure_logs(settings)
    try:
        run_worker(
            settings,
            slot=options.slot,
            device=options.device,
            device_class=options.device_class or options.device,
            profile=describe(options.device),
            pipeline=PRUNE,
        )
    except (SlotTaken, UnknownDevice) as error:
        sys.stderr.write(f"secateur worker: {error}\n")
        return EXIT_USAGE
    return 0


if __name__ == "__main__":
    sys.exit(main())
