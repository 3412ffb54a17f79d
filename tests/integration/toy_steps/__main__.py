"""`python -m toy_steps <slot>`: a worker that runs the toy job."""

import sys

from app.logs import configure_logs
from app.settings import Settings
from lut.profile import DeviceProfile
from toy_steps import PIPELINE
from workers.worker import run_worker

PROFILE = DeviceProfile(hardware="toy", runtime="none", runtime_version="0", threads=1, batch=1)

if __name__ == "__main__":
    settings = Settings()
    configure_logs(settings)
    run_worker(
        settings, slot=int(sys.argv[1]), device="local", device_class="local", profile=PROFILE, pipeline=PIPELINE,
        builds=PIPELINE,
    )  # fmt: skip
