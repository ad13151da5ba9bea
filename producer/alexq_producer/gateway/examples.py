"""An example of everything in the OpenAPI document: parameters, bodies, answers and errors, by operation.

``tests/unit/test_openapi_examples.py`` holds each against its schema, and the document against this module.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from pydantic import BaseModel

from alexq_producer.gateway import kserve, problems, resources, tensors, webhook_examples
from alexq_schema import errors
from alexq_schema.errors import AlexqError
from alexq_schema.job import Job, JobState, ModelRef, Prediction, Timings

_JOB: Final = "019ab5f2-7c31-7d0e-9a4b-5b0f6c1d2e3f"
_SUBMISSION: Final = "019ab5f2-7c30-7b11-8f2e-91c3a4d7e002"
_IMAGE: Final = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_MODEL: Final = ModelRef(name="alexnet", version="imagenet1k-v1", precision="bf16", trained=True)
_ACCEPTED_AT: Final = datetime(2026, 11, 24, 12, 0, 0, 125_000, UTC)
_FINISHED_AT: Final = datetime(2026, 11, 24, 12, 0, 0, 142_000, UTC)
_PREDICTIONS: Final = [
    Prediction(rank=rank, index=index, label=label, probability=probability)
    for rank, (index, label, probability) in enumerate(
        [
            (281, "tabby", 0.6143),
            (282, "tiger cat", 0.2207),
            (285, "Egyptian cat", 0.1285),
            (287, "lynx", 0.0121),
            (904, "window screen", 0.0034),
        ],
        start=1,
    )
]

_QUEUED: Final = Job(
    job_id=UUID(_JOB),
    submission_id=UUID(_SUBMISSION),
    source="cat.jpg",
    state=JobState.QUEUED,
    attempt=0,
    image_key=_IMAGE,
    predictions=[],
    model=None,
    error=None,
    timings=Timings(),
)
_CANCELLED: Final = _QUEUED.model_copy(
    update={"state": JobState.CANCELLED, "created_at": _ACCEPTED_AT, "finished_at": _FINISHED_AT}
)
_SUCCEEDED: Final = _CANCELLED.model_copy(
    update={
        "state": JobState.SUCCEEDED,
        "attempt": 1,
        "worker": "gpu-1:4711",
        "predictions": _PREDICTIONS,
        "model": _MODEL,
        "timings": Timings(waited_s=0.002, decode_s=0.004, forward_s=0.008, total_s=0.017),
    }
)
_PROGRESS: Final = resources.Submission(
    submission_id=UUID(_SUBMISSION),
    created_at=_ACCEPTED_AT,
    total=1_000,
    is_finished=False,
    counts={JobState.QUEUED: 560, JobState.RUNNING: 128, JobState.SUCCEEDED: 311, JobState.FAILED: 1},
    images_per_s=178.86,
    estimated_finish_at=datetime(2026, 11, 24, 12, 0, 5, 718_000, UTC),
)
_REJECTED: Final = resources.RejectedInput(
    source="notes.txt",
    code="image_type_unsupported",
    detail="notes.txt: not an image that alexq accepts (JPEG, PNG, WebP, GIF); it begins with b'This is '",
)

_REFERENCE: Final = {"source": "cat.jpg", "image_key": _IMAGE}
_INFERENCE: Final = {
    "id": "42",
    "inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": ["/9j/4AAQSkZJRgABAQ…"]}],
    "outputs": [{"name": "label"}, {"name": "probability"}],
}
_INFERRED: Final = tensors.InferResponse(
    model_name=_MODEL.name,
    model_version=_MODEL.version,
    id="42",
    parameters={"submission_id": _SUBMISSION, "job_ids": _JOB},
    outputs=[
        tensors.OutputTensor(
            name=name,
            datatype=tensors.OUTPUTS[name],
            shape=[1, 5],
            data=[getattr(p, name) for p in _PREDICTIONS],
        )
        for name in ("label", "probability")
    ],
)
_METADATA: Final = kserve.ModelMetadata(
    name=_MODEL.name,
    versions=[_MODEL.version],
    platform=kserve.PLATFORM,
    inputs=kserve.INPUTS,
    outputs=kserve.OUTPUTS,
)

PARAMETERS: Final[dict[str, Any]] = {
    "source": "cat.jpg",
    "deadline_s": 300,
    "lane": "bulk",
    "Idempotency-Key": "3f1c6e0a-order-4711",
    "prefer": "wait=60",
    "state": "failed",
    "label": "tabby",
    "model": "alexnet/imagenet1k-v1",
    "job_id": _JOB,
    "submission_id": _SUBMISSION,
    "created_after": "2026-11-24T00:00:00Z",
    "created_before": "2026-11-25T00:00:00Z",
    "cursor": UUID(_JOB).hex,
    "limit": 50,
    "crops": 10,
    "top_k": 10,
    "min_probability": 0.01,
    "temperature": 1.5,
    "reuse": True,
    "rejected": "skip",
    "wait_s": 60,
    "name": "alexnet",
    "version": "imagenet1k-v1",
    "Inference-Header-Content-Length": 160,
    "Last-Event-ID": "eAFjBAAAAgAC",
    **webhook_examples.PARAMETERS,
}
"""By name: one that several operations take means the same in all."""

_FILE: Final = "(the bytes of the file)"
_ONE: Final = {"multipart/form-data": {"image": _FILE}, "application/json": _REFERENCE}
_MANY: Final = {"multipart/form-data": {"images": [_FILE, _FILE]}, "application/x-ndjson": _REFERENCE}
_TENSORS: Final = {
    "application/json": _INFERENCE,
    "application/octet-stream": "(the JSON, then each image after its length in four bytes)",
}

BODIES: Final[dict[str, dict[str, Any]]] = {
    "submit_image": _ONE,
    "submit_images": _MANY,
    "infer": _TENSORS,
    "infer_version": _TENSORS,
    **webhook_examples.BODIES,
}
"""By operation and media type; what is not there and is binary is a file."""

_METRICS: Final = """\
# HELP alexq_gateway_images_accepted_total Images that became jobs.
# TYPE alexq_gateway_images_accepted_total counter
alexq_gateway_images_accepted_total{lane="interactive"} 311.0
"""

ANSWERS: Final[dict[str, dict[str, BaseModel | str]]] = {
    "submit_image": {"202": _QUEUED, "200": _SUCCEEDED},
    "list_jobs": {"200": resources.JobPage(jobs=[_SUCCEEDED], next_cursor=UUID(_JOB).hex)},
    "show_job": {"200": _SUCCEEDED},
    "cancel_job": {"200": _CANCELLED},
    "redrive_job": {"202": _QUEUED.model_copy(update={"created_at": _ACCEPTED_AT})},
    "submit_images": {
        "202": resources.AcceptedSubmission(
            submission_id=UUID(_SUBMISSION), total=1, job_ids=[UUID(_JOB)], rejected=[_REJECTED]
        ),
        "200": resources.AcceptedSubmission(submission_id=None, total=0, job_ids=[], rejected=[_REJECTED]),
    },
    "list_submissions": {"200": resources.SubmissionPage(submissions=[_PROGRESS], next_cursor=None)},
    "show_submission": {"200": _PROGRESS},
    "cancel_submission": {
        "200": _PROGRESS.model_copy(
            update={
                "is_finished": True,
                "counts": {JobState.SUCCEEDED: 311, JobState.FAILED: 1, JobState.CANCELLED: 688},
                "estimated_finish_at": None,
            }
        )
    },
    "stream_results": {"200": _SUCCEEDED},
    "list_models": {"200": resources.Models(models=[resources.Model(**_MODEL.model_dump(), workers=2)])},
    "health": {"200": resources.Health(status="ok")},
    "readiness": {"200": resources.Readiness(status="ok", database="ok", broker="ok")},
    "metrics": {"200": _METRICS},
    "server_metadata": {
        "200": kserve.ServerMetadata(name="alexq", version="0.1.0", extensions=kserve.EXTENSIONS)
    },
    "server_live": {"200": kserve.ServerLive(live=True)},
    "server_ready": {"200": kserve.ServerReady(ready=True)},
    "model_metadata": {"200": _METADATA},
    "model_version_metadata": {"200": _METADATA},
    "model_ready": {"200": kserve.ModelReady(name="alexnet", ready=True)},
    "model_version_ready": {"200": kserve.ModelReady(name="alexnet", ready=True)},
    "infer": {"200": _INFERRED},
    "infer_version": {"200": _INFERRED},
    **webhook_examples.ANSWERS,
}
"""By operation and status."""

_NO_JOB: Final = errors.JobNotFoundError(f"there is no job {_JOB}")
_NO_SUBMISSION: Final = errors.JobNotFoundError(f"there is no submission {_SUBMISSION}")
_NO_DATABASE: Final = errors.DatabaseUnavailableError("the database did not answer within 5 s")
_NO_KEY: Final = errors.UnauthenticatedError(
    "this needs an API key: send `Authorization: Bearer alexq_…`; `alexq keys create` makes one"
)
_NO_MODEL: Final = errors.ModelNotFoundError(
    "no worker serves or has served the model alexnet/imagenet1k-v1; `GET /v1/models` lists them"
)
_NO_WORKER: Final = errors.ModelNotReadyError("no worker serves the model alexnet now; try again later")
_CURSOR: Final = errors.RequestError("cursor='2': give a next_cursor, as it came")

ERRORS: Final[dict[str, AlexqError]] = {
    "submit_image": errors.ImageTypeError(_REJECTED.detail),
    "list_jobs": _CURSOR,
    "show_job": _NO_JOB,
    "cancel_job": errors.JobStateError(f"job {_JOB} has ended already: it is succeeded"),
    "redrive_job": errors.JobStateError(f"job {_JOB} is queued; only a dead job can be queued again"),
    "submit_images": errors.RequestError(
        "the body is no tar archive that can be read: unexpected end of data"
    ),
    "list_submissions": _CURSOR,
    "show_submission": _NO_SUBMISSION,
    "cancel_submission": _NO_SUBMISSION,
    "stream_results": _NO_SUBMISSION,
    "follow_submission": _NO_SUBMISSION,
    "list_models": _NO_KEY,
    "health": errors.ForbiddenError(
        "a gateway without API keys answers only this machine, as localhost, not 'rebound.example'"
    ),
    "readiness": _NO_DATABASE,
    "metrics": _NO_KEY,
    "server_metadata": _NO_DATABASE,
    "server_live": _NO_DATABASE,
    "server_ready": errors.ModelNotReadyError("no worker serves a model now"),
    "model_metadata": _NO_KEY,
    "model_version_metadata": _NO_MODEL,
    "model_ready": _NO_WORKER,
    "model_version_ready": _NO_MODEL,
    "infer": errors.WaitTimeoutError(
        f"1 of 1 jobs are not finished and go on: {_JOB}; see `GET /v1/submissions/{_SUBMISSION}/results`"
    ),
    "infer_version": _NO_WORKER,
    **webhook_examples.ERRORS,
}
"""One that each operation may answer with."""


def add(document: dict[str, Any]) -> None:
    """Put the examples into an OpenAPI document."""
    for path, operations in document["paths"].items():
        for operation in operations.values():
            _add_to(path, operation)


def _add_to(path: str, operation: dict[str, Any]) -> None:
    name = operation["operationId"]
    for parameter in operation.get("parameters", ()):
        if parameter["name"] in PARAMETERS:
            parameter["example"] = PARAMETERS[parameter["name"]]
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        content["example"] = BODIES.get(name, {}).get(kind, _FILE)
    for status, response in operation["responses"].items():
        for kind, content in response.get("content", {}).items():
            if kind == "application/octet-stream":
                content["example"] = "(the JSON, then the outputs)"
            elif status in ANSWERS.get(name, {}):
                answer = ANSWERS[name][status]
                content["example"] = answer if isinstance(answer, str) else answer.model_dump(mode="json")
            elif status == "default" and name in ERRORS:
                content["example"] = problems.told_of(ERRORS[name], _filled(path)).model_dump(
                    mode="json", exclude_defaults=True
                )


def _filled(path: str) -> str:
    return path.format(**{name: example for name, example in PARAMETERS.items() if name in path})
