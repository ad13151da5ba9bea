"""alexq: submit photographs, get AlexNet's labels, lose nothing.

    from alexq import Producer

    with Producer() as producer:
        job = producer.classify("cat.jpg")
        print(job.label, job.probability)

Names are imported when first used, so that ``import alexq`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alexq_producer import Producer, Rejection, Submission
    from alexq_producer.async_client import AsyncClient
    from alexq_producer.client import Client
    from alexq_producer.wire import Retries, Timeouts
    from alexq_schema.errors import AlexqError, FailedError, ImageError, RejectedError, WaitTimeoutError
    from alexq_schema.job import Job, JobState, Prediction
    from alexq_schema.settings import Settings

__version__ = "0.1.0"

_HOMES = {
    "AlexqError": "alexq_schema.errors",
    "AsyncClient": "alexq_producer.async_client",
    "Client": "alexq_producer.client",
    "FailedError": "alexq_schema.errors",
    "ImageError": "alexq_schema.errors",
    "Job": "alexq_schema.job",
    "JobState": "alexq_schema.job",
    "Prediction": "alexq_schema.job",
    "Producer": "alexq_producer",
    "RejectedError": "alexq_schema.errors",
    "Rejection": "alexq_producer",
    "Retries": "alexq_producer.wire",
    "Settings": "alexq_schema.settings",
    "Submission": "alexq_producer",
    "Timeouts": "alexq_producer.wire",
    "WaitTimeoutError": "alexq_schema.errors",
}

__all__ = [
    "AlexqError",
    "AsyncClient",
    "Client",
    "FailedError",
    "ImageError",
    "Job",
    "JobState",
    "Prediction",
    "Producer",
    "RejectedError",
    "Rejection",
    "Retries",
    "Settings",
    "Submission",
    "Timeouts",
    "WaitTimeoutError",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'alexq' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
