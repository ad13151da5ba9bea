"""Jobs that name a model version: whether there is such a one, as far as who accepts them can know."""

from __future__ import annotations

from alexq_schema.db import workers
from alexq_schema.db.session import Database
from alexq_schema.errors import ModelNotFoundError, PinnedModelError
from alexq_schema.models import ModelStore
from alexq_schema.settings import Settings


def require_known(ref: str, settings: Settings, database: Database) -> None:
    """Raise unless there may be a version ``ref``.

    There is one that is in the models folder, and one that a worker has served. Where this process sees no
    models folder, there may be any: a worker that does not find it fails the job.

    Raises:
        PinnedModelError: there is no such version.
        DatabaseUnavailableError: nobody can say.
    """
    store = ModelStore(settings.models_dir)
    try:
        folder = store.folder(ref)
    except ModelNotFoundError as error:
        raise PinnedModelError(str(error)) from error
    if (folder / "model.json").exists() or not store.models_dir.is_dir():
        return
    name, _, version = ref.partition("/")
    with database.read() as connection:
        if workers.has_served(connection, name, version):
            return
    raise PinnedModelError(
        f"there is no model version {ref}: `alexq models list`, or the dashboard's Models page, shows those "
        "there are"
    )
