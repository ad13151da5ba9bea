"""``/v1/models``, ``/healthz``, ``/readyz`` and ``/metrics``."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

import anyio
import redis
from fastapi import APIRouter, Request, Response
from sqlalchemy import text

from alexq_producer.gateway.auth import Reading
from alexq_producer.gateway.core import Core
from alexq_producer.gateway.metrics import Metrics
from alexq_producer.gateway.resources import Health, Model, Models, Readiness
from alexq_producer.gateway.state import shared
from alexq_schema.broker import connect
from alexq_schema.db import pages
from alexq_schema.errors import DatabaseUnavailableError

READY_WITHIN_S: Final = 5.0

router = APIRouter()


@router.get("/v1/models", operation_id="list_models", summary="List models", tags=["models"])
async def list_models(request: Request, _caller: Reading) -> Models:
    """List the model versions that workers serve, or have served, and how many serve each now."""
    core, *_ = shared(request)

    def read() -> list[Model]:
        with core.database.read() as connection:
            found = pages.models(connection, silent_after_s=core.settings.silent_after_s)
        return [Model(**model.model_dump(), workers=workers) for model, workers in found]

    return Models(models=await core.call(read))


@router.get("/healthz", operation_id="health", summary="Does it live?", tags=["operation"])
async def health() -> Health:
    """Answer, as long as the process does."""
    return Health(status="ok")


@router.get("/readyz", operation_id="readiness", summary="Can it accept jobs?", tags=["operation"])
async def readiness(request: Request) -> Readiness:
    """Answer 200 where jobs can be accepted, 503 where the database does not answer.

    Without the broker jobs are accepted too; they wait for it.
    """
    core, *_ = shared(request)
    broker = "unavailable"
    try:
        with anyio.fail_after(READY_WITHIN_S):
            await core.call(_ask_database, core)
    except TimeoutError as error:
        raise DatabaseUnavailableError(f"the database did not answer within {READY_WITHIN_S:g} s") from error
    with anyio.move_on_after(READY_WITHIN_S):
        broker = await core.call(_ask_broker, core)
    return Readiness(status="ok", database="ok", broker=broker)


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Metrics for Prometheus",
    tags=["operation"],
    response_class=Response,
    responses={
        HTTPStatus.OK: {
            "description": "In the format that `Accept` prefers.",
            "content": {
                kind: {"schema": {"type": "string"}}
                for kind in ("text/plain", "application/openmetrics-text")
            },
        }
    },
)
async def metrics(request: Request, _caller: Reading) -> Response:
    """Tell what this process has served, in the text format of Prometheus or in OpenMetrics."""
    told: Metrics = request.app.state.metrics
    content, media_type = told.exposed(request.headers.get("accept", ""))
    return Response(content, media_type=media_type)


def _ask_database(core: Core) -> None:
    with core.database.read() as connection:
        connection.execute(text("SELECT 1"))


def _ask_broker(core: Core) -> str:
    try:
        with connect(core.settings.broker_url, socket_connect_timeout=1, socket_timeout=1) as client:
            client.ping()
    except (redis.RedisError, OSError):
        return "unavailable"
    return "ok"
