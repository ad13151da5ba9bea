"""Model versions that differ in what they say, made of one weights file."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from alexq_schema.models import ModelStore

BASE = "alexnet/untrained-seed0"


def own_store(models_dir: Path, folder: Path) -> ModelStore:
    """Return a models folder of a test's own with the version of ``models_dir``, its files linked."""
    store = ModelStore(shutil.copytree(models_dir, folder, copy_function=os.link))
    (folder / "active").unlink()  # or it would be everybody's
    (folder / "active").write_text(f"{BASE}\n")
    return store


def add_version(store: ModelStore, version: str, *, crop: int = 224) -> str:
    """Add ``alexnet/<version>``, whose labels begin with the version's name; return its reference.

    Its weights are those of the version that is there, and linked: whoever damages them unlinks them first.
    """
    base = store.find(BASE)
    ref = f"alexnet/{version}"
    folder = store.folder(ref)
    folder.mkdir()
    os.link(base.weights_path, folder / "weights.safetensors")
    labels = "".join(f"{version} {label}\n" for label in base.read_labels()).encode()
    (folder / "labels.txt").write_bytes(labels)
    changes = {
        "version": version,
        "labels_sha256": hashlib.sha256(labels).hexdigest(),
        "preprocessing": base.info.preprocessing.model_copy(update={"crop": crop}),
    }
    (folder / "model.json").write_text(base.info.model_copy(update=changes).model_dump_json())
    return ref
