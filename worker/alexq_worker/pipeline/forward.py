"""Third stage: the one thread that owns the device."""

from __future__ import annotations

import logging
import queue

from alexq_schema.errors import EngineError
from alexq_schema.work import Errored
from alexq_worker.pipeline.assembly import Assembly
from alexq_worker.pipeline.flow import Ended, Flow, Forwarded, Item
from alexq_worker.pipeline.ports import Engine

log = logging.getLogger("alexq.pipeline")


class ForwardStage:
    """Seals a batch whenever the device is free; ends when the assembly is closed and empty."""

    def __init__(
        self,
        flow: Flow,
        engine: Engine,
        assembly: Assembly[Item],
        finished: queue.Queue[Forwarded | Ended | None],
    ) -> None:
        self._flow = flow
        self._engine = engine
        self._assembly = assembly
        self._finished = finished

    def run(self) -> None:
        """Classify until there is nothing left, then tell the committer so."""
        while (batch := self._assembly.seal()) is not None:
            items = batch.items
            started = self._flow.clock()
            try:
                top = self._engine.classify(batch.pixels)
            except Exception as error:
                log.exception("the model failed on a batch of %d", len(items))
                for item in items:
                    self._finished.put(Ended(item, Errored(item.claim, EngineError.code, str(error))))
            else:
                self._finished.put(Forwarded(items, top, self._flow.clock() - started))
            self._assembly.recycle(batch)
        self._finished.put(None)
