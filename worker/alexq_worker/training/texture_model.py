"""The model of a machine without a network: trained once on generated textures, in under a minute."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from alexq_schema.errors import ModelError
from alexq_schema.models import ModelStore, ModelVersion
from alexq_schema.settings import Settings
from alexq_schema.training import TrainModel

TEXTURES_REF: Final = "alexnet/textures-v1"
_EACH: Final = 60
"""Pictures of every kind; a fifth is held out."""
_SHOWN_EACH: Final = 4
_UNSEEN: Final = 1_000_000
"""Seeds from here on are of pictures that no training has seen."""


def ensure_textures(settings: Settings) -> ModelVersion:
    """Return the texture model, trained unless it is there and whole.

    Raises:
        ModelError: the models folder cannot be written, or another training of it is going on.
    """
    store = ModelStore(settings.models_dir)
    try:
        version = store.find(TEXTURES_REF)
        version.read_labels()
        version.verify_weights()
    except ModelError:
        return _train(settings)
    return version


def write_unseen(folder: Path) -> None:
    """Write pictures that no training has seen as ``folder/<label>/<seed>.jpg``."""
    from alexq_worker.training.textures import write_set

    write_set(folder, _SHOWN_EACH, _UNSEEN)


def _train(settings: Settings) -> ModelVersion:
    from alexq_worker.training.textures import write_set
    from alexq_worker.training.train import train

    with tempfile.TemporaryDirectory(prefix="alexq-textures-") as name:
        data = Path(name) / "generated textures"
        write_set(data, _EACH)
        return train(TrainModel.of(data=data, ref=TEXTURES_REF, epochs=20, learning_rate=3e-3), settings)
