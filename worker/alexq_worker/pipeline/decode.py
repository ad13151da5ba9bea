"""A thread per core decodes into the open batch (Pillow releases the GIL); loads what was not read ahead."""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable, Sequence

from alexq_schema.errors import AlexqError, FailedError, ImageError, ImageLostError, ImageNotFoundError
from alexq_schema.options import Options
from alexq_schema.work import Claim, Errored, Failed, Late, Outcome
from alexq_worker.pipeline.assembly import Assembly
from alexq_worker.pipeline.flow import Ended, Flow, Forwarded, Item, ItemQueue, take_all
from alexq_worker.pipeline.policy import BatchPolicy
from alexq_worker.pipeline.ports import Decoder, ImageLoader, JobTable, Picture
from alexq_worker.pipeline.residents import Resident, Residents

log = logging.getLogger("alexq.pipeline")


class DecodeStage:
    """Shared by the decode threads; None in ``items`` ends one of them."""

    def __init__(
        self,
        flow: Flow,
        table: JobTable,
        images: ImageLoader,
        residents: Residents,
        items: ItemQueue,
        assembly: Assembly[Item],
        finished: queue.Queue[Forwarded | Ended | None],
        given_back: Callable[[int], None],
    ) -> None:
        """Prepare.

        Args:
            given_back: called with an image's bytes, when one that was read ahead is begun.
        """
        self._flow = flow
        self._table = table
        self._images = images
        self._residents = residents
        self._items = items
        self._assembly = assembly
        self._finished = finished
        self._given_back = given_back

    def run(self) -> None:
        """Decode until told to end; once draining began, release what is not decoded."""
        while (item := self._items.get()[1]) is not None:
            if self._flow.draining.is_set():
                give_back(self._flow, self._table, self._residents, [item, *take_all(self._items)])
                continue
            resident = item.resident or self._residents.take()
            if not self._added(item, resident):
                self._residents.leave(resident)

    def _added(self, item: Item, resident: Resident) -> bool:
        """Bring an item's picture into a batch of this version, or end it; return whether it has one."""
        fetched, item.fetched = item.fetched, None
        if fetched is not None:
            self._given_back(item.claim.image_bytes)
        if self._ends_late(item, resident.policy, is_decoded=False):
            return False
        entries = 1
        if item.claim.options is not None:
            try:
                item.options = Options.read(item.claim.options)
            except AlexqError as error:
                self._finished.put(Ended(item, unreadable(item.claim, error)))
                return False
            entries = item.entries
        started = self._flow.clock()
        with self._flow.step("decoding image {} of job {}", item.claim.image_key, item.claim.job_id):
            picture = self._picture(resident.decoder, item.claim.image_key, fetched, entries)
        item.decoded_at = self._flow.clock()
        item.decode_s = item.decoded_at - started
        resident.policy.observe_decode(item.decode_s)
        if isinstance(picture, AlexqError):
            self._finished.put(Ended(item, outcome_of(item.claim, picture)))
            return False
        if self._ends_late(item, resident.policy, is_decoded=True):
            return False
        self._assembly.add(item, picture, resident, entries)
        return True

    def _picture(
        self, decoder: Decoder, image_key: str, fetched: bytes | AlexqError | None, crops: int
    ) -> Picture | AlexqError:
        if fetched is None:
            return load_picture(self._images, decoder, image_key, crops)
        return fetched if isinstance(fetched, AlexqError) else decoded(decoder, fetched, image_key, crops)

    def _ends_late(self, item: Item, policy: BatchPolicy, *, is_decoded: bool) -> bool:
        """End an item that cannot be done by its deadline any more; return whether it was one."""
        left_s = None if item.expires_at is None else item.expires_at - self._flow.clock()
        if not policy.is_too_late(left_s, is_decoded=is_decoded):
            return False
        self._finished.put(Ended(item, Late(item.claim)))
        return True


def give_back(flow: Flow, table: JobTable, residents: Residents, items: Sequence[Item]) -> None:
    """Release claimed jobs that are not decoded, and the versions that were taken for them."""
    flow.release(table, items)
    for item in items:
        if item.resident is not None:
            residents.leave(item.resident)


def load_picture(
    images: ImageLoader, decoder: Decoder, image_key: str, crops: int = 1
) -> Picture | AlexqError:
    """Return the picture of a stored image, or why there is none; raises nothing."""
    data = load(images, image_key)
    return data if isinstance(data, AlexqError) else decoded(decoder, data, image_key, crops)


def load(images: ImageLoader, image_key: str) -> bytes | AlexqError:
    """Return a stored image, or why there is none; raises nothing."""
    try:
        return images.get(image_key)
    except ImageNotFoundError as error:
        return ImageLostError(f"the store lost an accepted image: {error}")
    except AlexqError as error:
        return error
    except MemoryError:
        return FailedError(f"reading image {image_key} took more memory than there is")
    except Exception as error:
        log.exception("reading image %s failed in a way that has no name", image_key)
        return FailedError(f"reading failed: {type(error).__name__}: {error}")


def decoded(decoder: Decoder, data: bytes, image_key: str, crops: int = 1) -> Picture | AlexqError:
    """Return the picture in ``data``, or why there is none; raises nothing."""
    try:
        return decoder.decode(data) if crops == 1 else decoder.decode(data, crops)
    except ImageError as error:
        return error
    except MemoryError:
        return FailedError(f"decoding image {image_key} took more memory than there is")
    except Exception as error:
        log.exception("decoding image %s failed in a way that has no name", image_key)
        return FailedError(f"decoding failed: {type(error).__name__}: {error}")


def unreadable(claim: Claim, error: AlexqError) -> Outcome:
    """Return what options mean that a later release has written: that a worker of it may try."""
    return Errored(claim, error.code, error.detail, is_retryable=True)


def outcome_of(claim: Claim, error: AlexqError) -> Outcome:
    """Return what an image that gave no picture means for its job: the input's fault, or ours."""
    if isinstance(error, ImageError):
        return Failed(claim, error.code, error.detail)
    return Errored(claim, error.code, error.detail, error.is_retryable)
