"""/metrics, for Prometheus."""

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from app.errors import responses
from app.metrics import Metrics

router = APIRouter(tags=["health"])


@router.get("/metrics", response_class=Response, responses={**responses(), 200: {"content": {"text/plain": {}}}})
def metrics(request: Request) -> Response:
    """What this process and the service do, in Prometheus' text format."""
    watched: Metrics = request.app.state.metrics
    return Response(watched.text(), media_type=CONTENT_TYPE_LATEST)
