"""`python -m toy_steps <slot> [--deaf]`: a worker that runs the toy job."""

import sys
from typing import Any

from app.logs import configure_logs
from app.settings import Settings
from lut.profile import DeviceProfile
from toy_steps import PIPELINE
from workers import worker
from workers.__main__ import EXIT_USAGE
from workers.heartbeat import Heartbeat
from workers.locks import SlotTaken

PROFILE = DeviceProfile(hardware="toy", runtime="none", runtime_version="0", threads=1, batch=1)


class Deaf(Heartbeat):
    """The heartbeat of a zombie that does not stop when it hears that it is dead: only the fences are left."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "on_lost": lambda reason: None})


if __name__ == "__main__":
    if "--deaf" in sys.argv:
        worker.Heartbeat = Deaf  # type: ignore[misc]
    settings = Settings()
    configure_logs(settings)
    try:
        worker.run_worker(
            settings, slot=int(sys.argv[1]), device="local", device_class="local", profile=PROFILE, pipeline=PIPELINE,
            builds=PIPELINE,
        )  # fmt: skip
    except SlotTaken as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(EXIT_USAGE)
