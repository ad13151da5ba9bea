"""A BentoML service with adaptive batching: a batch of uploads is decoded in threads, then inferred."""

from __future__ import annotations

from pathlib import Path

import bentoml

from benchmarks.throughput.peers.stages import Stages, setting


@bentoml.service(
    workers=setting("workers"),
    traffic={"timeout": 120},
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
)
class Classifier:
    """Each worker has decode threads, a model and a batcher of its own."""

    def __init__(self) -> None:
        self._stages = Stages()

    @bentoml.api(
        batchable=True, max_batch_size=setting("max_batch"), max_latency_ms=setting("max_latency_ms")
    )
    def classify(self, images: list[Path]) -> list[int]:
        """Return class indices; a request has one file and gets one index."""
        return self._stages.classify([image.read_bytes() for image in images])
