"""Models: which versions there are, which one is active, and who serves what."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from sqlalchemy import Connection

from alexq_monitor.overview import SEEN_WITHIN_S
from alexq_monitor.pages.base import Page
from alexq_monitor.sources import HASH_S
from alexq_schema.db import dashboard
from alexq_schema.db.dashboard import WorkerState
from alexq_schema.db.pages import models
from alexq_schema.errors import ModelInvalidError, ModelNotFoundError, UsageError
from alexq_schema.job import ModelRef
from alexq_schema.model_info import ModelInfo
from alexq_schema.models import Activation, ModelStore, ModelVersion

log = logging.getLogger("alexq.monitor")

ACTIVATIONS: Final = 5


@dataclass(frozen=True, slots=True)
class Shelf:
    """The models folder, as far as this process sees it."""

    folder: str
    is_there: bool
    active: str | None
    previous: str | None
    """The version that was active before."""
    versions: list[tuple[str, ModelInfo | None, str]]
    """Reference, what its ``model.json`` says, and what is wrong with it."""
    history: list[Activation]
    """The last activations, the newest first."""


def look(store: ModelStore) -> Shelf:
    """Return what is in the models folder."""
    versions: list[tuple[str, ModelInfo | None, str]] = []
    for ref in store.refs():
        try:
            versions.append((ref, store.find(ref).info, ""))
        except (ModelNotFoundError, ModelInvalidError) as error:
            versions.append((ref, None, str(error)))
    return Shelf(
        str(store.models_dir),
        store.models_dir.is_dir(),
        store.active_ref(),
        store.previous_ref(),
        versions,
        store.history()[: -ACTIVATIONS - 1 : -1],
    )


def _read(
    connection: Connection, silent_after_s: float
) -> tuple[list[tuple[ModelRef, int]], list[WorkerState]]:
    workers = dashboard.workers(connection, seen_within_s=SEEN_WITHIN_S)
    alive = [worker for worker in workers if worker.is_alive(silent_after_s)]
    return models(connection, silent_after_s=silent_after_s), alive


class ModelsPage(Page):
    """``/models``."""

    template = tab = "models"
    title = "Models"

    async def get(self) -> None:
        """Show them."""
        sources = self.dashboard.sources
        known, alive = await sources.read(partial(_read, silent_after_s=sources.settings.silent_after_s))
        shelf = await sources.files(partial(look, sources.models))
        self.show(known=known, alive=alive, shelf=shelf)

    def said(self) -> str | None:
        """Say that a version was activated."""
        return "It is active: workers switch to it within seconds." if self.asked("activated") else None


class Activate(Page):
    """``POST /models/activate``."""

    tab = "models"

    async def post(self) -> None:
        """Make a version the active one, once its files are as its ``model.json`` says."""
        self.require_admin()
        ref = self.asked("model")
        if ref is None:
            raise UsageError("say which model: name/version")
        await _change(self, partial(self.dashboard.sources.models.activate, ref, self.actor), "activated")


class Rollback(Page):
    """``POST /models/rollback``."""

    tab = "models"

    async def post(self) -> None:
        """Make the version that was active before this one the active one again."""
        self.require_admin()
        await _change(self, partial(self.dashboard.sources.models.rollback, self.actor), "rolled back to")


async def _change(page: Page, change: Callable[[], ModelVersion], done: str) -> None:
    """Change the active version, note by whom, and show the models again."""
    try:
        version = await page.dashboard.sources.files(change, HASH_S)
    except OSError as error:
        raise ModelInvalidError(f"the models folder cannot be written: {error.strerror}") from error
    log.info("%s %s %s", page.actor, done, version.info.ref)
    page.redirect(page.path("/models", activated=1), status=303)
