"""Third stage: the one thread that owns the device."""

from __future__ import annotations

import logging
import queue
from collections.abc import Sequence

from alexq_schema.errors import DeviceMemoryError, EngineError
from alexq_schema.options import Options
from alexq_schema.work import Errored
from alexq_worker.pipeline.assembly import Assembly
from alexq_worker.pipeline.flow import Ended, Flow, Forwarded, Item
from alexq_worker.pipeline.ports import Answer, Pixels, TopK
from alexq_worker.pipeline.residents import Resident, Residents

AS_EVER = Options()

log = logging.getLogger("alexq.pipeline")


class ForwardStage:
    """Seals a batch whenever the device is free; ends when the assembly is closed and empty."""

    def __init__(
        self,
        flow: Flow,
        residents: Residents,
        assembly: Assembly[Item],
        finished: queue.Queue[Forwarded | Ended | None],
    ) -> None:
        self._flow = flow
        self._residents = residents
        self._assembly = assembly
        self._finished = finished

    def run(self) -> None:
        """Classify until there is nothing left, then tell the committer so.

        Raises:
            EngineError: the device does not work any more, whatever the input; the process must end.
        """
        while (sealed := self._assembly.seal()) is not None:
            resident, batch = sealed
            size = len(batch.items)
            with self._flow.step(f"the device with a batch of {size}"):
                parts = self._classify(resident, batch.items, batch.pixels)
            for part in parts:
                self._finished.put(part)
            self._assembly.recycle(batch)
            self._residents.leave(resident, size)
        self._finished.put(None)

    def _classify(self, resident: Resident, items: list[Item], pixels: Pixels) -> list[Forwarded | Ended]:
        """Return what became of a batch; one that fails is bisected until the culprits are alone."""
        engine, policy = resident.engine, resident.policy
        is_as_ever = all(item.options is None for item in items)
        size = policy.size_now(len(items))
        if size < len(items) and is_as_ever:  # it was filled before the device ran out of memory
            return self._parts(resident, items, pixels, size)
        started = self._flow.clock()
        try:
            if is_as_ever:
                top: TopK | Sequence[Answer] = engine.classify(pixels)
            else:
                top = engine.score(pixels, [item.options or AS_EVER for item in items])
        except Exception as error:
            if isinstance(error, DeviceMemoryError) and engine.batch_limit > 1:
                engine.lower_limit()
                policy.lower(engine.batch_limit)
                log.warning("batches of %d images at most from now on: %s", policy.limit, error)
                return self._classify(resident, items, pixels)
            log.exception("the model failed on a batch of %d", len(items))
            if len(items) == 1:
                engine.check()  # before an image is blamed: a device that broke fails on everything
                [item] = items
                return [Ended(item, Errored(item.claim, EngineError.code, str(error)))]
            return self._parts(resident, items, pixels, len(items) // 2)
        forward_s = self._flow.clock() - started
        policy.cost.observe(len(pixels), forward_s)
        return [Forwarded(items, resident, top, policy.limit, started, forward_s)]

    def _parts(
        self, resident: Resident, items: list[Item], pixels: Pixels, size: int
    ) -> list[Forwarded | Ended]:
        place = sum(item.entries for item in items[:size])
        first = self._classify(resident, items[:size], pixels[:place])
        return first + self._classify(resident, items[size:], pixels[place:])
