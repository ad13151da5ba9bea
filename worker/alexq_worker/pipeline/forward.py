"""Third stage: the one thread that owns the device."""

from __future__ import annotations

import logging
import queue

from alexq_schema.errors import DeviceMemoryError, EngineError
from alexq_schema.work import Errored
from alexq_worker.pipeline.assembly import Assembly
from alexq_worker.pipeline.flow import Ended, Flow, Forwarded, Item
from alexq_worker.pipeline.policy import BatchPolicy
from alexq_worker.pipeline.ports import Engine, Pixels

log = logging.getLogger("alexq.pipeline")


class ForwardStage:
    """Seals a batch whenever the device is free; ends when the assembly is closed and empty."""

    def __init__(
        self,
        flow: Flow,
        engine: Engine,
        assembly: Assembly[Item],
        finished: queue.Queue[Forwarded | Ended | None],
        policy: BatchPolicy,
    ) -> None:
        self._flow = flow
        self._policy = policy
        self._engine = engine
        self._assembly = assembly
        self._finished = finished

    def run(self) -> None:
        """Classify until there is nothing left, then tell the committer so.

        Raises:
            EngineError: the device does not work any more, whatever the input; the process must end.
        """
        while (batch := self._assembly.seal()) is not None:
            with self._flow.step(f"the device with a batch of {len(batch.items)}"):
                parts = self._classify(batch.items, batch.pixels)
            for part in parts:
                self._finished.put(part)
            self._assembly.recycle(batch)
        self._finished.put(None)

    def _classify(self, items: list[Item], pixels: Pixels) -> list[Forwarded | Ended]:
        """Return what became of a batch; one that fails is bisected until the culprits are alone."""
        size = self._policy.size_now(len(items))
        if size < len(items):  # it was filled before the device ran out of memory
            return self._classify(items[:size], pixels[:size]) + self._classify(items[size:], pixels[size:])
        started = self._flow.clock()
        try:
            top = self._engine.classify(pixels)
        except Exception as error:
            if isinstance(error, DeviceMemoryError) and len(items) > 1:
                self._engine.lower_limit()
                self._policy.lower(self._engine.batch_limit)
                log.warning("batches of %d images at most from now on: %s", self._policy.limit, error)
                return self._classify(items, pixels)
            log.exception("the model failed on a batch of %d", len(items))
            if len(items) == 1:
                self._engine.check()  # before an image is blamed: a device that broke fails on everything
                [item] = items
                return [Ended(item, Errored(item.claim, EngineError.code, str(error)))]
            half = len(items) // 2
            return self._classify(items[:half], pixels[:half]) + self._classify(items[half:], pixels[half:])
        forward_s = self._flow.clock() - started
        self._policy.cost.observe(len(items), forward_s)
        return [Forwarded(items, top, self._policy.limit, started, forward_s)]
