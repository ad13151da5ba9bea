"""A batch that an engine has begun with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from alexq_schema.errors import EngineError
from alexq_worker.inference.topk import TopK

if TYPE_CHECKING:
    from alexq_worker.inference.engine import Engine
    from alexq_worker.inference.runner import Pending


class Launched:
    """A batch on its way through the device; for the thread that launched it."""

    def __init__(self, engine: Engine, pending: Pending, size: int) -> None:
        """:meth:`Engine.launch` makes it."""
        self._engine = engine
        self._pending = pending
        self._size = size

    def wait_copied(self) -> None:
        """Return when the images are on the device: the host's batch may be filled again.

        Raises:
            EngineError: the device failed.
        """
        with self._engine._translated(self._size):
            self._pending.wait_copied()

    def result(self) -> TopK:
        """Return the best classes of every image, in input order; may be called again.

        Raises:
            DeviceMemoryError, EngineError: as :meth:`Engine.classify`.
        """
        with self._engine._translated(self._size):
            top = self._pending.fetch()
        if not np.isfinite(top.probabilities).all():
            where = f"model {self._engine._ref} on {self._engine.device_name}"
            raise EngineError(f"{where} gave probabilities that are not finite")
        return top
