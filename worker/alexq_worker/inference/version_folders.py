"""A version's folder: written beside its place and renamed into it, so that one that is there is whole.

One that is there and intact is never changed; a damaged one is replaced by the same version only.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from alexq_schema.errors import ModelError, ModelInvalidError
from alexq_schema.model_info import ModelInfo
from alexq_schema.models import ModelStore, ModelVersion
from alexq_worker.inference import architectures


def find_intact(store: ModelStore, ref: str) -> ModelVersion | None:
    """Return the version ``ref`` if it is there with files that are what its ``model.json`` says."""
    try:
        version = store.find(ref)
        version.read_labels()
        version.verify_weights()
    except ModelError:
        return None
    return version


def write_version(
    store: ModelStore,
    ref: str,
    architecture: str,
    state: dict[str, Tensor],
    labels: Sequence[str],
    *,
    trained: bool,
    source: str,
    **facts: Any,
) -> ModelVersion:
    """Write the version's three files and move them into place; ``facts`` are more fields of ``model.json``.

    Raises:
        ModelInvalidError: another version of this name is there.
        ModelError: the models folder cannot be written.
    """
    folder = store.folder(ref)
    name, version = ref.split("/")
    # Directly in the models folder, where no listing of <name>/<version> looks.
    draft = store.models_dir / f".draft-{secrets.token_hex(8)}"
    try:
        draft.mkdir(parents=True)
        safetensors.torch.save_file(state, draft / "weights.safetensors")
        (draft / "labels.txt").write_bytes("".join(f"{label}\n" for label in labels).encode())
        info = ModelInfo(
            name=name,
            version=version,
            architecture=architecture,
            classes=len(labels),
            weights_sha256=_sha256(draft / "weights.safetensors"),
            labels_sha256=_sha256(draft / "labels.txt"),
            trained=trained,
            source=source,
            **{"preprocessing": architectures.find_architecture(architecture).preprocessing, **facts},
        )
        told = info.model_dump(mode="json", exclude_none=True)  # an older release knows no `training`
        (draft / "model.json").write_text(json.dumps(told, indent=2) + "\n", "utf-8")
        for path in (*draft.iterdir(), draft):
            _sync(path)
        _move_into_place(store, draft, folder, info)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot write model {ref} to {store.models_dir}: {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return store.find(ref)


def _move_into_place(store: ModelStore, draft: Path, folder: Path, info: ModelInfo) -> None:
    folder.parent.mkdir(exist_ok=True)
    try:
        draft.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        _refuse_another(store, info)
        if find_intact(store, info.ref) is None:
            with _set_aside(folder):
                draft.rename(folder)
    _sync(folder.parent)


def _refuse_another(store: ModelStore, info: ModelInfo) -> None:
    """Raise if the folder of this name holds another version, intact or not."""
    try:
        there = store.find(info.ref).info
    except ModelError:
        return  # no readable model.json: nothing is known to be lost
    if there.model_copy(update={"source": info.source}) != info:
        raise ModelInvalidError(
            f"model {info.ref} is already there and is another one; versions never change: "
            "choose another version name"
        )


@contextlib.contextmanager
def _set_aside(folder: Path) -> Iterator[None]:
    """Move a damaged folder away for good, or back if what should replace it fails."""
    aside = folder.parent.parent / f".damaged-{secrets.token_hex(8)}"
    folder.rename(aside)
    try:
        yield
    except OSError:
        aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Make a file's content or a folder's entries survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
