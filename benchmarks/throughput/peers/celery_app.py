"""A plain Celery worker: one image a task, base64 in the message, the class index in the result backend."""

from __future__ import annotations

import base64
import os
from typing import TYPE_CHECKING, Any

from celery.signals import worker_process_init

from benchmarks.throughput.peers.celery_config import CLASSIFY, configured

if TYPE_CHECKING:
    from benchmarks.throughput.model import Model

app = configured(
    os.environ.get("BENCH_BROKER_URL", "memory://"),
    worker_prefetch_multiplier=int(os.environ.get("BENCH_PREFETCH", "4")),
)
_models: list[Model] = []


@worker_process_init.connect(weak=False)
def load(**_: Any) -> None:
    """Load the model in each pool process, or in the worker itself where it is the pool."""
    from benchmarks.throughput.model import Model

    _models[:] = [Model.from_environment()]


@app.task(name=CLASSIFY)
def classify(image_base64: str) -> int:
    """Return the class index of an image."""
    (model,) = _models
    return model.best([model.decode(base64.b64decode(image_base64))])[0]
