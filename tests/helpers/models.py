"""Model versions that differ in what they say, made of one weights file."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

from alexq_schema.models import ModelStore
from benchmarks.chaos.light import REF as BASE


def own_store(models_dir: Path, folder: Path) -> ModelStore:
    """Return a models folder of a test's own with the versions of ``models_dir``, their weights linked."""

    def copy(source: str, target: str) -> str:
        if source.endswith(".safetensors"):
            os.link(source, target)
        else:
            shutil.copy2(source, target)  # who writes one must not write everybody's
        return target

    return ModelStore(shutil.copytree(models_dir, folder, symlinks=True, copy_function=copy))


def add_version(store: ModelStore, version: str, *, of: str = BASE, crop: int | None = None) -> str:
    """Add ``alexnet/<version>``, whose labels begin with the version's name; return its reference.

    Its weights are those of the version that is there, and linked: whoever damages them unlinks them first.
    """
    base = store.find(of)
    ref = f"alexnet/{version}"
    folder = store.folder(ref)
    folder.mkdir()
    os.link(base.weights_path, folder / "weights.safetensors")
    labels = "".join(f"{version} {label}\n" for label in base.read_labels()).encode()
    (folder / "labels.txt").write_bytes(labels)
    changes: dict[str, Any] = {
        "version": version,
        "labels_sha256": hashlib.sha256(labels).hexdigest(),
    }
    if crop is not None:
        changes["preprocessing"] = base.info.preprocessing.model_copy(update={"crop": crop})
    told = base.info.model_copy(update=changes).model_dump_json(exclude_none=True)  # as write_version does
    (folder / "model.json").write_text(told)
    return ref
