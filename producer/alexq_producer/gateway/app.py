"""The composition of the gateway: its parts, its routes, its server."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import FrameType
from typing import Any, Final

import uvicorn
from fastapi import FastAPI

from alexq_producer.gateway import jobs, operations, problems, submissions
from alexq_producer.gateway.admission import Admission
from alexq_producer.gateway.auth import Gate, is_loopback, require_bindable
from alexq_producer.gateway.core import Core
from alexq_producer.gateway.intake import Intake, KeysInUse
from alexq_producer.gateway.metrics import Measured, Metrics
from alexq_producer.gateway.problems import Problem
from alexq_producer.gateway.protocol import PatientHttpProtocol
from alexq_producer.gateway.state import Shared
from alexq_schema import migrations
from alexq_schema.settings import Settings

STOP_GRACE_S: Final = 30
"""Time that a stopping gateway gives to requests that it serves."""

log = logging.getLogger("alexq.gateway")

_DESCRIPTION: Final = """\
Classify images: `POST /v1/jobs` takes one, `POST /v1/submissions` up to 10,000. What is accepted (202) is
on disk and gets exactly one result. Every error is RFC 9457 `application/problem+json` with a stable `code`.
"""


def create_app(core: Core) -> FastAPI:
    """Return the application; it closes ``core`` when it ends.

    Raises:
        SettingsError: ``ALEXQ_GATEWAY_RATE`` is malformed.
    """
    metrics = Metrics()
    admission = Admission(core, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with core.running():
            yield
        admission.close()

    app = FastAPI(
        title="alexq",
        version="1",
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        responses=problems.RESPONSES,
        redirect_slashes=False,
    )
    app.state.metrics = metrics
    app.state.shared = Shared(core, Intake(core, admission, metrics), KeysInUse())
    app.state.gate = Gate(core, is_loopback=is_loopback(core.settings.gateway_address))
    app.add_middleware(Measured, metrics=metrics)
    problems.install(app)
    for router in (jobs.router, submissions.router, operations.router):
        app.include_router(router)
    _describe_problems(app)
    return app


def _describe_problems(app: FastAPI) -> None:
    """Say in the OpenAPI document that every error is a problem, where FastAPI names its own shape."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = describe()
            components = schema["components"]["schemas"]
            template = "#/components/schemas/{model}"
            problem = Problem.model_json_schema(ref_template=template)
            components.update(problem.pop("$defs", {}))
            components["Problem"] = problem
            for name in ("HTTPValidationError", "ValidationError"):
                components.pop(name, None)
            for operations_of in schema["paths"].values():
                for operation in operations_of.values():
                    operation["responses"].pop("422", None)  # one of the default's
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
    config = uvicorn.Config(
        create_app(core),
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
