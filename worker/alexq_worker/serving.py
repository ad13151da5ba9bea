"""Which model version this worker serves: loaded from the models folder, and changed while it works.

``<models_dir>/active`` names the version. A worker looks at it at every heartbeat; when it names another
one, that one is verified, loaded and warmed up beside the one that serves, on the thread that looks, and
takes over between two batches (:mod:`alexq_worker.pipeline.residents`). One that cannot be used is refused:
the old version goes on, the worker's row says why, and it is tried again after a minute, or at once when
it is activated again. Where ``ALEXQ_MODEL`` names a version, the worker serves that one and looks at nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final
from uuid import UUID

from alexq_schema.db import workers
from alexq_schema.db.session import Database
from alexq_schema.errors import AlexqError, UnavailableError
from alexq_schema.models import ModelStore, ModelVersion
from alexq_schema.settings import Settings
from alexq_worker.inference.decode import Decoder, memory_for
from alexq_worker.inference.engine import Engine
from alexq_worker.metrics import Metrics
from alexq_worker.pipeline.residents import Resident, Residents

RETRY_S: Final = 60.0
"""After which a refused version is tried again: somebody may have mended its folder."""

log = logging.getLogger("alexq.serving")


class Loaded(Resident):
    """A version in memory, with the engine as the rest of the worker knows it."""

    engine: Engine


class Loader:
    """Brings model versions into memory, each with its row in ``model_versions``; one at a time."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self.store = ModelStore(settings.models_dir)
        self._memory = memory_for(settings.max_image_pixels)
        self._loading = threading.Lock()

    def load(self, ref: str = "") -> Loaded:
        """Return a version, verified and warm: ``ref``, or the active one.

        Raises:
            ModelError, DeviceError, EngineError, SettingsError: it cannot be served.
            DatabaseUnavailableError: its row cannot be had.
        """
        with self._loading:
            return self._load(self.store.resolve(ref))

    def _load(self, version: ModelVersion) -> Loaded:
        settings = self._settings
        decoder = Decoder(version.info.preprocessing, settings.max_image_pixels, self._memory)
        engine = Engine.load(
            version, device=settings.device, precision=settings.precision, max_batch=settings.max_batch
        )
        try:
            engine.warm_up()
            with self._database.begin() as connection:
                model_id = workers.register_model(connection, engine.model_ref, version.info.weights_sha256)
        except Exception:
            engine.close()
            raise
        return Loaded(
            version.info.ref,
            model_id,
            decoder=decoder,
            engine=engine,
            labels=engine.labels,
            max_batch=settings.max_batch,
        )


class Following:
    """Switches to whatever version is active. One thread calls :meth:`look`."""

    def __init__(
        self,
        loader: Loader,
        residents: Residents,
        *,
        worker_id: UUID,
        database: Database,
        on_switch: Callable[[Loaded], None],
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loader = loader
        self._residents = residents
        self._worker_id = worker_id
        self._database = database
        self._on_switch = on_switch
        self._metrics = metrics
        self._clock = clock
        self._refused: tuple[str, object] | None = None  # the version, and which activation of it
        self._refused_at = 0.0

    def look(self) -> None:
        """Switch, if another version has been made the active one; returns when that is done or refused.

        Raises:
            DatabaseUnavailableError: nothing has changed; a later look does it again.
        """
        ref, stamp = self._loader.store.active_ref(), self._loader.store.active_stamp()
        if ref is None:
            return
        if ref == self._residents.active.ref:
            self._forget_refusal()
        elif (ref, stamp) != self._refused or self._clock() - self._refused_at >= RETRY_S:
            self._take_up(ref, stamp)

    def _take_up(self, ref: str, stamp: object) -> None:
        old = self._residents.active.ref
        log.info("loading model %s beside %s", ref, old, extra={"model": ref})
        started = self._clock()
        self._refused, self._refused_at = (ref, stamp), started  # not again at once, whatever goes wrong
        try:
            loaded = self._loader.load(ref)
        except UnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the one that serves goes on
            self._refuse(ref, error)
            return
        try:
            with self._database.begin() as connection:
                workers.serve(connection, self._worker_id, loaded.model_id)
        except UnavailableError:
            loaded.engine.close()
            raise
        self._residents.switch(loaded)
        self._refused = None
        self._on_switch(loaded)
        self._metrics.switched()
        log.info(
            "switched to model %s from %s after %.1f s of loading",
            ref,
            old,
            self._clock() - started,
            extra={"model": ref, "from": old},
        )

    def _refuse(self, ref: str, error: Exception) -> None:
        is_ours = isinstance(error, AlexqError)
        log.error(
            "model %s is refused, %s goes on: %s",
            ref,
            self._residents.active.ref,
            error,
            extra={"model": ref},
            exc_info=None if is_ours else error,
        )
        self._metrics.refused()
        reason = str(error) if is_ours else f"{type(error).__name__}: {error}"
        with self._database.begin() as connection:
            workers.refuse(connection, self._worker_id, ref, reason)

    def _forget_refusal(self) -> None:
        if self._refused is not None:
            with self._database.begin() as connection:
                workers.serve(connection, self._worker_id, self._residents.active.model_id)
            self._refused = None
