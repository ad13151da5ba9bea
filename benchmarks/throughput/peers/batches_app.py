"""A celery-batches worker: the same messages, taken in batches that are decoded in threads, then inferred."""

from __future__ import annotations

import base64
import os
from typing import Any

from celery.signals import worker_init, worker_process_init
from celery_batches import Batches, SimpleRequest

from benchmarks.throughput.peers.celery_config import CLASSIFY, configured
from benchmarks.throughput.peers.stages import Stages, setting

app = configured(
    os.environ["BENCH_BROKER_URL"],
    # In all processes together there must be room for more messages than one batch has.
    worker_prefetch_multiplier=setting("prefetch_batches") * setting("max_batch"),
)
_stages: list[Stages] = []


def load(**_: Any) -> None:
    """Load the model where batches run."""
    _stages[:] = [Stages()]


# A pool of threads runs batches in the worker itself, prefork in its children.
(worker_init if setting("threads") else worker_process_init).connect(load, weak=False)


@app.task(
    name=CLASSIFY,
    base=Batches,
    flush_every=setting("max_batch"),
    flush_interval=setting("flush_ms") / 1_000,
)
def classify(requests: list[SimpleRequest]) -> None:
    """Store the class index of each request's image, or its error."""
    (stages,) = _stages
    tried = stages.try_to_decode([base64.b64decode(request.args[0]) for request in requests])
    decoded = []
    for request, picture in zip(requests, tried, strict=True):
        if isinstance(picture, Exception):
            app.backend.mark_as_failure(request.id, picture)
        else:
            decoded.append((request, picture))
    best = stages.best([picture for _, picture in decoded])
    for (request, _), index in zip(decoded, best, strict=True):
        app.backend.mark_as_done(request.id, index, request=request)
