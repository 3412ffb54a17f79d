"""`python -m api_steps`: a worker for the tests of the API."""

from api_steps import BUILDS, PIPELINE
from app.logs import configure_logs
from app.settings import Settings
from lut.profile import DeviceProfile
from workers.worker import run_worker

PROFILE = DeviceProfile(hardware="toy", runtime="none", runtime_version="0", threads=1, batch=1)

if __name__ == "__main__":
    settings = Settings()
    configure_logs(settings)
    run_worker(
        settings, slot=0, device="local", device_class="local", profile=PROFILE, pipeline=PIPELINE, builds=BUILDS
    )
