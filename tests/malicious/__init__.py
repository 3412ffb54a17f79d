"""Uploads made to do harm, each with the code that refuses it."""

from tests.malicious.graphs import graphs
from tests.malicious.images import images
from tests.malicious.tensors import pickles, safetensors
from tests.malicious.upload import Malicious
from tests.malicious.zips import zips

__all__ = ["Malicious", "listed"]


def listed() -> list[Malicious]:
    """All of them."""
    return [*zips(), *images(), *safetensors(), *pickles(), *graphs()]
