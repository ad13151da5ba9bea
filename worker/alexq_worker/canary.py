"""A version on trial: classifies a share of the jobs again, after their results are committed, and tells.

It has a thread, an engine and a line of its own, and nothing of the pipeline waits for it: when the line is
full, jobs are left out. What it says is kept in ``canary_results``; nobody is answered with it.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import numpy as np

from alexq_schema.db import canary as table
from alexq_schema.db.canary import Tried
from alexq_schema.db.session import Database
from alexq_schema.errors import AlexqError
from alexq_schema.images import ImageStore
from alexq_schema.model_info import Canary
from alexq_schema.options import Options
from alexq_schema.work import Claim, Succeeded
from alexq_worker.pipeline.commit import CommitReport, likely
from alexq_worker.pipeline.decode import load_picture
from alexq_worker.pipeline.ports import Pixels
from alexq_worker.serving import Loaded, Loader

LINE: Final = 1_024
"""Jobs that wait for it, at most."""
LOOK_S: Final = 0.5

log = logging.getLogger("alexq.canary")


class Trial:
    """Owned by a thread that :meth:`start` starts; :meth:`look` and :meth:`committed` may be any other's."""

    def __init__(self, loader: Loader, images: ImageStore, database: Database) -> None:
        self._loader = loader
        self._images = images
        self._database = database
        self._canary: Canary | None = None
        self._loaded: Loaded | None = None
        self._refused: Canary | None = None
        self._line: queue.Queue[Claim] = queue.Queue(LINE)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="alexq-canary", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the batch at hand, which gets 5 s."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(5.0)

    def look(self) -> None:
        """See which version is to be tried now.

        Raises:
            ModelInvalidError: the file that says so is malformed.
        """
        self._canary = self._loader.store.canary()

    def committed(self, report: CommitReport) -> None:
        """Put the share's jobs in line; costs nothing while nothing is tried."""
        canary = self._canary
        if canary is None:
            return
        for job in report.jobs:
            claim = job.outcome.claim
            is_meant = isinstance(job.outcome, Succeeded) and claim.pinned is None and not claim.crashes
            if is_meant and canary.has(claim.job_id):
                with suppress(queue.Full):
                    self._line.put_nowait(claim)

    def _run(self) -> None:
        while not self._stopping.is_set():
            claims = list(self._waiting())
            try:
                self._take_up(self._canary)
                if claims and self._loaded is not None:
                    self._try(self._loaded, claims)
            except Exception as error:  # the process loop
                log.warning("a trial of %d jobs failed: %s", len(claims), error, exc_info=_unnamed(error))

    def _waiting(self) -> Iterator[Claim]:
        """Yield up to a batch of those in line, after waiting a while for one."""
        with suppress(queue.Empty):
            yield self._line.get(timeout=LOOK_S)
            limit = 1 if self._loaded is None else self._loaded.engine.batch_limit
            for _ in range(limit - 1):
                yield self._line.get_nowait()

    def _take_up(self, canary: Canary | None) -> None:
        """Load the version that is to be tried, and let go of another."""
        if self._loaded is not None and (canary is None or canary.model != self._loaded.ref):
            self._loaded.engine.close()
            self._loaded = None
        if canary is None:
            self._refused = None
        if canary is None or self._loaded is not None or canary == self._refused:
            return
        try:
            self._loaded = self._loader.load(canary.model)
        except Exception:
            self._refused = canary  # until somebody says otherwise
            raise
        log.info("trying %s on %g of the jobs", canary.model, canary.share, extra={"model": canary.model})

    def _try(self, loaded: Loaded, claims: list[Claim]) -> None:
        side = loaded.engine.forward.side
        meant: list[tuple[Claim, Options]] = []
        parts: list[Pixels] = []
        for claim in claims:
            options = Options.read(claim.options) or Options()
            picture = load_picture(self._images, loaded.decoder, claim.image_key, options.entries)
            if isinstance(picture, AlexqError):
                continue
            pixels = np.empty((options.entries, side, side, 3), np.uint8)
            picture.write_to(pixels[0] if options.entries == 1 else pixels)
            meant.append((claim, options))
            parts.append(pixels)
        if not meant:
            return
        answers = loaded.engine.score(np.concatenate(parts), [how for _, how in meant])
        tried: list[Tried] = []
        for (claim, how), (indices, probabilities) in zip(meant, answers, strict=True):
            kept = likely(indices, probabilities, how)
            said = loaded.predictions.write(kept, probabilities[: len(kept)])
            tried.append(Tried(claim.job_id, said.label, said.probability))
        with self._database.begin() as connection:
            table.add(connection, loaded.model_id, tried)


def _unnamed(error: Exception) -> Exception | None:
    return None if isinstance(error, AlexqError) else error
