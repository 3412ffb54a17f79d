"""Secateur's client: upload a network and its images, submit a prune job, follow it, take the result home.

    from secateur import Client

    with Client("http://127.0.0.1:8117") as client:
        model = client.upload_model("resnet56.safetensors", arch="cifar/resnet56")
        dataset = client.upload_dataset("animals/", image_size=32, mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5])
        job = client.submit(model_id=model.id, dataset_id=dataset.id, classes=["cat", "dog"], budget_ratio=0.5)
        job.wait()
        job.download("slim/")

Importing the package costs nothing: a name below is loaded when it is first used, so the service, which needs only
`secateur.schemas`, never loads an HTTP client.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateur.client import Client
    from secateur.errors import (
        ApiError,
        ChecksumMismatch,
        ConnectionFailed,
        JobCancelled,
        JobFailed,
        NotFound,
        SecateurError,
        UnexpectedAnswer,
        UsageError,
        WaitTimeout,
    )
    from secateur.jobs import Job

__version__ = "0.1.0"

_HOMES = {
    "Client": "secateur.client",
    "Job": "secateur.jobs",
    "SecateurError": "secateur.errors",
    "ApiError": "secateur.errors",
    "NotFound": "secateur.errors",
    "ConnectionFailed": "secateur.errors",
    "UnexpectedAnswer": "secateur.errors",
    "ChecksumMismatch": "secateur.errors",
    "JobFailed": "secateur.errors",
    "JobCancelled": "secateur.errors",
    "WaitTimeout": "secateur.errors",
    "UsageError": "secateur.errors",
}

__all__ = [
    "ApiError",
    "ChecksumMismatch",
    "Client",
    "ConnectionFailed",
    "Job",
    "JobCancelled",
    "JobFailed",
    "NotFound",
    "SecateurError",
    "UnexpectedAnswer",
    "UsageError",
    "WaitTimeout",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'secateur' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
