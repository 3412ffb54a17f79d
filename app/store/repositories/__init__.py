"""All SQL, one noun a file. A repository is made for one transaction and never commits it."""

from app.store.repositories.artifacts import Artifacts
from app.store.repositories.audit import Audit
from app.store.repositories.datasets import Datasets
from app.store.repositories.devices import Devices
from app.store.repositories.events import Events
from app.store.repositories.expired import Expired
from app.store.repositories.figures import Figures
from app.store.repositories.holds import Holds
from app.store.repositories.idempotency import Idempotency
from app.store.repositories.inputs import Inputs
from app.store.repositories.jobs import Jobs
from app.store.repositories.keys import FoundKey, Keys
from app.store.repositories.leases import Leases
from app.store.repositories.luts import Luts, Moved
from app.store.repositories.measurements import Measurements
from app.store.repositories.models import Models
from app.store.repositories.pages import RowPage
from app.store.repositories.projects import Projects, Usage
from app.store.repositories.turns import Turns
from app.store.repositories.uploads import Uploads
from app.store.repositories.waits import Waits
from app.store.repositories.workers import Workers

__all__ = [
    "Artifacts",
    "Audit",
    "Datasets",
    "Devices",
    "Events",
    "Expired",
    "Figures",
    "FoundKey",
    "Holds",
    "Idempotency",
    "Inputs",
    "Jobs",
    "Keys",
    "Leases",
    "Luts",
    "Measurements",
    "Models",
    "Moved",
    "Projects",
    "RowPage",
    "Turns",
    "Uploads",
    "Usage",
    "Waits",
    "Workers",
]
