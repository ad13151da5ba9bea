"""Second stage: a thread per core loads and decodes into the open batch (Pillow releases the GIL)."""

from __future__ import annotations

import logging
import queue
from contextlib import suppress

from alexq_schema.errors import AlexqError, FailedError, ImageError, ImageLostError, ImageNotFoundError
from alexq_schema.work import Errored, Failed, Outcome
from alexq_worker.pipeline.assembly import Assembly
from alexq_worker.pipeline.flow import Ended, Flow, Forwarded, Item
from alexq_worker.pipeline.ports import Decoder, ImageLoader, JobTable, Picture

log = logging.getLogger("alexq.pipeline")


class DecodeStage:
    """Shared by the decode threads; None in ``items`` ends one of them."""

    def __init__(
        self,
        flow: Flow,
        table: JobTable,
        images: ImageLoader,
        decoder: Decoder,
        items: queue.Queue[Item | None],
        assembly: Assembly[Item],
        finished: queue.Queue[Forwarded | Ended | None],
    ) -> None:
        self._flow = flow
        self._table = table
        self._images = images
        self._decoder = decoder
        self._items = items
        self._assembly = assembly
        self._finished = finished

    def run(self) -> None:
        """Decode until told to end; once draining began, release what is not decoded."""
        while (item := self._items.get()) is not None:
            if self._flow.draining.is_set():
                self._release([item, *self._waiting()])
                continue
            started = self._flow.clock()
            picture = self._decode(item.claim.image_key)
            item.decode_s = self._flow.clock() - started
            if isinstance(picture, AlexqError):
                self._finished.put(Ended(item, _outcome(item, picture)))
            else:
                self._assembly.add(item, picture)

    def _decode(self, image_key: str) -> Picture | AlexqError:
        """Return the picture, or why there is none."""
        try:
            data = self._images.get(image_key)
        except ImageNotFoundError as error:
            return ImageLostError(f"the store lost an accepted image: {error}")
        except AlexqError as error:
            return error
        try:
            return self._decoder.decode(data)
        except ImageError as error:
            return error
        except Exception as error:
            log.exception("decoding image %s failed in a way that has no name", image_key)
            return FailedError(f"decoding failed: {type(error).__name__}: {error}")

    def _waiting(self) -> list[Item]:
        waiting: list[Item] = []
        with suppress(queue.Empty):
            while True:
                item = self._items.get_nowait()
                if item is None:  # another thread's end
                    self._items.put(None)
                    return waiting
                waiting.append(item)
        return waiting

    def _release(self, items: list[Item]) -> None:
        self._flow.until_answered(
            "release", lambda: self._table.release([item.claim for item in items]), even_draining=True
        )
        for item in items:
            item.ticket.give_back()
        self._flow.let_go(items)


def _outcome(item: Item, error: AlexqError) -> Outcome:
    if isinstance(error, ImageError):
        return Failed(item.claim, error.code, error.detail)
    return Errored(item.claim, error.code, error.detail)
