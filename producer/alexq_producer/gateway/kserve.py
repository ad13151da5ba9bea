"""``/v2``: the Open Inference Protocol (KServe's v2), for clients of model servers."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from importlib.metadata import version as installed_version
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel

from alexq_producer.gateway import tensors
from alexq_producer.gateway.auth import Reading
from alexq_producer.gateway.core import Core
from alexq_producer.gateway.inference import BINARY_HEADER, Asked, answer, asked
from alexq_producer.gateway.problems import InferenceError
from alexq_producer.gateway.state import shared
from alexq_producer.gateway.tensors import InferResponse, TensorMetadata
from alexq_schema.db import pages
from alexq_schema.errors import ModelNotFoundError, ModelNotReadyError

EXTENSIONS: Final = ["binary_tensor_data"]
PLATFORM: Final = "pytorch"
INPUTS: Final = [TensorMetadata(name="image", datatype="BYTES", shape=[-1])]
OUTPUTS: Final = [
    TensorMetadata(name=name, datatype=datatype, shape=[-1, -1]) for name, datatype in tensors.OUTPUTS.items()
]

router = APIRouter(
    tags=["inference"],
    responses={"default": {"description": "An error.", "model": InferenceError}},
)


class ServerMetadata(BaseModel):
    """What this server is."""

    name: str
    version: str
    extensions: list[str]


class ServerLive(BaseModel):
    """Whether the server lives."""

    live: bool


class ServerReady(BaseModel):
    """Whether the server can answer inferences."""

    ready: bool


class ModelMetadata(BaseModel):
    """What a model takes and gives."""

    name: str
    versions: list[str]
    """Those that workers serve now."""
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ModelReady(BaseModel):
    """Whether a model can answer inferences."""

    name: str
    ready: bool


@router.get("/v2", operation_id="server_metadata", summary="What is this server?")
@router.get("/v2/", include_in_schema=False)  # so in the protocol's own OpenAPI document
async def server_metadata() -> ServerMetadata:
    """Return name, version and extensions of the server."""
    return ServerMetadata(name="alexq", version=installed_version("alexq"), extensions=EXTENSIONS)


@router.get("/v2/health/live", operation_id="server_live", summary="Does it live?")
async def server_live() -> ServerLive:
    """Answer, as long as the process does."""
    return ServerLive(live=True)


@router.get("/v2/health/ready", operation_id="server_ready", summary="Can it answer inferences?")
async def server_ready(request: Request) -> ServerReady:
    """Answer 200 where a worker serves a model, 503 where none does; jobs are accepted without one too."""
    core, *_ = shared(request)
    if not any(workers for *_, workers in await core.call(_models, core)):
        raise ModelNotReadyError("no worker serves a model now")
    return ServerReady(ready=True)


@router.get("/v2/models/{name}", operation_id="model_metadata", summary="What does a model take and give?")
async def model_metadata(name: str, request: Request, _caller: Reading) -> ModelMetadata:
    """Return the tensors of a model, and the versions of it that workers serve now."""
    return await _metadata(request, name)


@router.get(
    "/v2/models/{name}/versions/{version}",
    operation_id="model_version_metadata",
    summary="What does a model version take and give?",
)
async def model_version_metadata(
    name: str, version: str, request: Request, _caller: Reading
) -> ModelMetadata:
    """Return the tensors of a model version, and the versions of the model that workers serve now."""
    return await _metadata(request, name, version)


async def _metadata(request: Request, name: str, version: str | None = None) -> ModelMetadata:
    core, *_ = shared(request)
    found = await core.call(_models, core)
    _check_known(found, name, version)
    return ModelMetadata(
        name=name,
        versions=sorted({one for known, one, workers in found if known == name and workers}),
        platform=PLATFORM,
        inputs=INPUTS,
        outputs=OUTPUTS,
    )


@router.get("/v2/models/{name}/ready", operation_id="model_ready", summary="Can a model answer?")
async def model_ready(name: str, request: Request, _caller: Reading) -> ModelReady:
    """Answer 200 where a worker serves the model, 503 where none does now."""
    await _require_served(request, name)
    return ModelReady(name=name, ready=True)


@router.get(
    "/v2/models/{name}/versions/{version}/ready",
    operation_id="model_version_ready",
    summary="Can a model version answer?",
)
async def model_version_ready(name: str, version: str, request: Request, _caller: Reading) -> ModelReady:
    """Answer 200 where a worker serves the model version, 503 where none does now."""
    await _require_served(request, name, version)
    return ModelReady(name=name, ready=True)


async def _require_served(request: Request, name: str, version: str | None = None) -> None:
    core, *_ = shared(request)
    found = await core.call(_models, core)
    _check_known(found, name, version)
    if not any(workers for *model, workers in found if _is_asked_for(model, name, version)):
        raise ModelNotReadyError(f"no worker serves the model {_title(name, version)} now; try again later")


def _models(core: Core) -> list[tuple[str, str, int]]:
    """Return name and version of every model that workers serve or have served, and how many do now."""
    with core.database.read() as connection:
        found = pages.models(connection, silent_after_s=core.settings.silent_after_s)
    return [(model.name, model.version, workers) for model, workers in found]


def _check_known(found: Sequence[tuple[str, str, int]], name: str, version: str | None) -> None:
    if not any(_is_asked_for(model, name, version) for *model, _ in found):
        raise ModelNotFoundError(
            f"no worker serves or has served the model {_title(name, version)}; `GET /v1/models` lists them"
        )


def _is_asked_for(model: Sequence[str], name: str, version: str | None) -> bool:
    return model[0] == name and version in (None, model[1])


def _title(name: str, version: str | None) -> str:
    return name if version is None else f"{name}/{version}"


_INFER: Final[dict[str, Any]] = {
    "response_model": InferResponse,
    "responses": {
        HTTPStatus.OK: {
            "description": "The outputs; binary data follows the JSON where it was asked for.",
            "headers": {
                BINARY_HEADER: {
                    "schema": {"type": "integer"},
                    "description": "Bytes of the JSON, where binary data follows it.",
                }
            },
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "description": "The request as JSON, or as JSON with binary data after it.",
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/InferRequest"}},
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            },
        }
    },
}


@router.post("/v2/models/{name}/infer", operation_id="infer", summary="Classify images", **_INFER)
async def infer(name: str, request: Request, asked: Annotated[Asked, Depends(asked)]) -> Response:
    """Classify images, and answer when all are finished: within 60 seconds, or those of `Prefer: wait=N`.

    In JSON each element is an image in base64, in binary data the image itself. After that time 504 says
    which jobs go on; the same request with the same `Idempotency-Key` waits for them again.
    """
    await _require_served(request, name)
    return await answer(request, asked, name)


@router.post(
    "/v2/models/{name}/versions/{version}/infer",
    operation_id="infer_version",
    summary="Classify images with a model version",
    **_INFER,
)
async def infer_version(
    name: str, version: str, request: Request, asked: Annotated[Asked, Depends(asked)]
) -> Response:
    """Classify images as `/v2/models/{name}/infer` does, with the version of the model that is named."""
    await _require_served(request, name, version)
    return await answer(request, asked, name, version)
