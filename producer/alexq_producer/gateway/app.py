"""The composition of the gateway: its parts, its routes, its server."""

from __future__ import annotations

import gc
import logging
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from types import FrameType
from typing import Any, Final

import uvicorn
from fastapi import FastAPI

from alexq_producer.gateway import (
    events,
    examples,
    jobs,
    kserve,
    operations,
    page,
    problems,
    submissions,
    webhooks,
)
from alexq_producer.gateway.admission import Admission
from alexq_producer.gateway.auth import Gate, require_bindable
from alexq_producer.gateway.core import Core
from alexq_producer.gateway.direct import Direct
from alexq_producer.gateway.intake import Intake
from alexq_producer.gateway.metrics import Measured, Metrics
from alexq_producer.gateway.problems import Problem
from alexq_producer.gateway.protocol import PatientHttpProtocol
from alexq_producer.gateway.repetition import KeysInUse
from alexq_producer.gateway.state import Shared
from alexq_producer.gateway.tensors import InferRequest
from alexq_producer.gateway.traced import Traced
from alexq_schema import migrations, tracing
from alexq_schema.loopback import is_loopback
from alexq_schema.settings import Settings

STOP_GRACE_S: Final = 30
"""Time that a stopping gateway gives to requests that it serves."""

log = logging.getLogger("alexq.gateway")

_DESCRIPTION: Final = """\
Classify images: `POST /v1/jobs` takes one, `POST /v1/submissions` up to 10,000. What is accepted (202) is
on disk and gets exactly one result. Every error is RFC 9457 `application/problem+json` with a stable `code`.
`/v2` is the Open Inference Protocol, with the errors that are its own.
"""


def create_app(core: Core) -> FastAPI:
    """Return the application; it closes ``core`` when it ends.

    Raises:
        SettingsError: ``ALEXQ_GATEWAY_RATE`` or a host in ``ALEXQ_IMAGE_URL_HOSTS`` is malformed.
    """
    metrics = Metrics()
    admission = Admission(core, metrics)
    intake = Intake(core, admission, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with closing(admission), closing(intake):
            async with core.running():
                yield

    app = FastAPI(
        title="alexq",
        version="1",
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        responses=problems.RESPONSES,
        redirect_slashes=False,
        telemetry={"tracing": False},  # a span of ours is there: Traced
    )
    app.state.metrics = metrics
    app.state.shared = Shared(core, intake, KeysInUse())
    app.state.gate = Gate(core, is_loopback=is_loopback(core.settings.gateway_address))
    problems.install(app)
    routers = (jobs, submissions, events, webhooks, operations, kserve)
    for router in (module.router for module in routers):
        app.include_router(router)
    app.include_router(page.router(core.settings.dashboard_url))
    _describe(app)
    return app


def _describe(app: FastAPI) -> None:
    """Put into the OpenAPI document what FastAPI does not see: errors, and bodies that we read ourselves."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = describe()
            components = schema["components"]["schemas"]
            template = "#/components/schemas/{model}"
            for model in (Problem, InferRequest):
                described = model.model_json_schema(ref_template=template)
                components.update(described.pop("$defs", {}))
                components[model.__name__] = described
            for name in ("HTTPValidationError", "ValidationError"):
                components.pop(name, None)
            for operations_of in schema["paths"].values():
                for operation in operations_of.values():
                    operation["responses"].pop("422", None)  # one of the default's
            examples.add(schema)
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def serve(settings: Settings) -> None:
    """Answer until SIGTERM or SIGINT.

    Raises:
        SettingsError: it must not listen where the settings say.
        MigrationError: the database is not at this release's schema.
        DatabaseUnavailableError: it does not answer.
    """
    migrations.require_usable(settings.database_url)
    core = Core(settings)
    require_bindable(core)
    app = create_app(core)
    measured = Measured(Direct(app, jobs.router), app.state.metrics)
    config = uvicorn.Config(
        Traced(measured) if tracing.is_on() else measured,
        host=settings.gateway_address,
        port=settings.gateway_port,
        loop="asyncio",  # uvloop has no bound on what it reads at a time
        http=PatientHttpProtocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,  # its records go where all go
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=STOP_GRACE_S,
        timeout_keep_alive=75,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _ended)
    # What stays for ever is not weighed against what requests leave behind, so that is collected sooner.
    gc.collect()
    gc.freeze()
    _Server(config, core).run()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, core: Core) -> None:
        super().__init__(config)
        self._core = core

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        if self.started:
            log.info("gateway on http://%s:%s", self.config.host, self.config.port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop: with SIGTERM or SIGINT."""
        self._core.is_stopping = True
        super().handle_exit(sig, frame)


def _ended(_number: int, _frame: object) -> None:
    """Do nothing: uvicorn, which stops at a signal, raises it again when it has stopped in good order."""
