"""Model versions on disk: ``<models_dir>/<name>/<version>/{model.json, weights.safetensors, labels.txt}``.

A version is immutable: one architecture, one weights file, one label list. ``<models_dir>/active``
holds the reference (``name/version``) of the one that workers serve.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from alexq_schema.errors import ModelInvalidError, ModelNotFoundError
from alexq_schema.model_info import PART, Canary, ModelInfo

HISTORY = "active.log"


@dataclass(frozen=True)
class Activation:
    """One line of the history: when a version was made the active one."""

    at: str
    ref: str
    actor: str = ""
    """The person or program that did it; empty where that is not known."""


@dataclass(frozen=True)
class ModelVersion:
    """One version folder, its ``model.json`` read and valid; weights and labels not yet checked."""

    folder: Path
    info: ModelInfo

    @property
    def weights_path(self) -> Path:
        """The safetensors file: a torchvision state dict."""
        return self.folder / "weights.safetensors"

    @property
    def labels_path(self) -> Path:
        """The label list: one a line, in class-index order, UTF-8."""
        return self.folder / "labels.txt"

    def read_labels(self) -> list[str]:
        """Return the labels in class-index order.

        Raises:
            ModelInvalidError: the file is missing, changed, or of another length than the classes.
        """
        try:
            text = self.labels_path.read_bytes()
        except OSError as error:
            raise ModelInvalidError(f"model {self.info.ref}: cannot read {self.labels_path}") from error
        if hashlib.sha256(text).hexdigest() != self.info.labels_sha256:
            raise ModelInvalidError(
                f"model {self.info.ref}: {self.labels_path} is not the label list that model.json names; "
                "pull or import the model again"
            )
        try:
            labels = text.decode("utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise ModelInvalidError(
                f"model {self.info.ref}: {self.labels_path} is not UTF-8: {error}"
            ) from error
        if b"\0" in text:
            raise ModelInvalidError(f"model {self.info.ref}: {self.labels_path} holds a NUL character")
        if len(labels) != self.info.classes:
            raise ModelInvalidError(
                f"model {self.info.ref}: {self.labels_path} has {len(labels)} labels for "
                f"{self.info.classes} classes"
            )
        return labels

    def verify_weights(self) -> None:
        """Read the weights file through its hash.

        Raises:
            ModelInvalidError: the file is missing or its SHA-256 is not the one in ``model.json``.
        """
        try:
            with self.weights_path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ModelInvalidError(f"model {self.info.ref}: cannot read {self.weights_path}") from error
        if digest != self.info.weights_sha256:
            raise ModelInvalidError(
                f"model {self.info.ref}: {self.weights_path} has SHA-256 {digest}, model.json says "
                f"{self.info.weights_sha256}; the file is damaged or was changed: pull or import it again"
            )


class ModelStore:
    """The models folder."""

    def __init__(self, models_dir: Path) -> None:
        self.models_dir = models_dir

    def folder(self, ref: str) -> Path:
        """Return the folder of ``name/version``, there or not.

        Raises:
            ModelNotFoundError: ``ref`` is not of that form.
        """
        if not re.fullmatch(f"{PART}/{PART}", ref):
            raise ModelNotFoundError(f"model {ref!r} is not of the form name/version")
        return self.models_dir / ref

    def find(self, ref: str) -> ModelVersion:
        """Return the version ``name/version``.

        Raises:
            ModelNotFoundError: it is not in the folder.
            ModelInvalidError: its ``model.json`` is malformed.
        """
        folder = self.folder(ref)
        try:
            info = ModelInfo.model_validate_json((folder / "model.json").read_bytes())
        except OSError as error:
            have = ", ".join(self.refs()) or "none"
            raise ModelNotFoundError(f"no model {ref} in {self.models_dir} (there: {have})") from error
        except ValidationError as error:
            first = error.errors()[0]
            what = f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"
            raise ModelInvalidError(f"model {ref}: {folder / 'model.json'} is malformed ({what})") from error
        if info.ref != ref:
            raise ModelInvalidError(f"model {ref}: its model.json says it is {info.ref}")
        return ModelVersion(folder, info)

    def refs(self) -> list[str]:
        """Return ``name/version`` of every version folder, whole or damaged, in order."""
        files = sorted(self.models_dir.glob("[!.]*/[!.]*/model.json"))
        return [f"{file.parent.parent.name}/{file.parent.name}" for file in files]

    @property
    def _active_path(self) -> Path:
        return self.models_dir / "active"

    def active_ref(self) -> str | None:
        """Return ``name/version`` of the version that workers serve, or None if none was chosen."""
        try:
            return self._active_path.read_text("utf-8").strip()
        except FileNotFoundError:
            return None

    def active_stamp(self) -> tuple[int, int] | None:
        """Return what differs from one activation to the next, even of the same version."""
        try:
            there = self._active_path.stat()
        except FileNotFoundError:
            return None
        return there.st_mtime_ns, there.st_ino

    def activate(self, ref: str, actor: str = "") -> ModelVersion:
        """Make ``ref`` the version that workers serve: running ones take it up within seconds.

        Args:
            ref: ``name/version``.
            actor: who does it, for the history.

        Raises:
            ModelNotFoundError: it is not in the folder.
            ModelInvalidError: its files are damaged; the active version stays.
        """
        version = self.find(ref)
        version.read_labels()
        version.verify_weights()
        before = self.active_ref()
        draft = self._active_path.with_suffix(".tmp")
        draft.write_text(ref + "\n", "utf-8")
        draft.replace(self._active_path)
        self._record(before, ref, actor)
        return version

    def rollback(self, actor: str = "") -> ModelVersion:
        """Make the version that was active before this one the active one again.

        Raises:
            ModelNotFoundError: there was none, or it is gone.
            ModelInvalidError: its files are damaged; the active version stays.
        """
        previous = self.previous_ref()
        if previous is None:
            raise ModelNotFoundError(
                f"no other version was active in {self.models_dir}: activate one by its name"
            )
        return self.activate(previous, actor)

    def previous_ref(self) -> str | None:
        """Return the version that was active before this one, or None if there was none."""
        active = self.active_ref()
        return next((one.ref for one in reversed(self.history()) if one.ref != active), None)

    def history(self) -> list[Activation]:
        """Return every activation, oldest first."""
        try:
            lines = (self.models_dir / HISTORY).read_text("utf-8").splitlines()
        except FileNotFoundError:
            return []
        return [Activation(*words) for line in lines if len(words := line.split(" ", 2)) > 1]

    def _record(self, before: str | None, ref: str, actor: str) -> None:
        """Add to the history; after the fact, so that what is there was active."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        lines = [f"{at} {ref} {' '.join(actor.split())}".rstrip()]
        if before and not self.history():  # an earlier release kept none
            lines.insert(0, f"{at} {before}")
        with (self.models_dir / HISTORY).open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)

    @property
    def _canary_path(self) -> Path:
        return self.models_dir / "canary"

    def canary(self) -> Canary | None:
        """Return the version that is tried beside the active one, or None.

        Raises:
            ModelInvalidError: the file that says so is malformed.
        """
        try:
            return Canary.model_validate_json(self._canary_path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise ModelInvalidError(
                f"{self._canary_path} is malformed: {error.errors()[0]['msg']}"
            ) from error

    def try_beside(self, canary: Canary) -> None:
        """Have workers try a version on a share of the jobs, beside the active one.

        Raises:
            ModelNotFoundError: it is not in the folder.
            ModelInvalidError: its files are damaged.
        """
        version = self.find(canary.model)
        version.read_labels()
        version.verify_weights()
        draft = self._canary_path.with_suffix(".tmp")
        draft.write_text(canary.model_dump_json() + "\n", "utf-8")
        draft.replace(self._canary_path)

    def end_canary(self) -> None:
        """Try nothing more."""
        self._canary_path.unlink(missing_ok=True)

    def resolve(self, ref: str = "") -> ModelVersion:
        """Return the version to serve: ``ref``, or the active one when ``ref`` is empty.

        Raises:
            ModelNotFoundError: no such version, or none is active.
        """
        ref = ref or self.active_ref() or ""
        if not ref:
            raise ModelNotFoundError(
                f"no model is active in {self.models_dir}: run `alexq models pull` "
                "or `alexq models import`, then `alexq models activate NAME/VERSION`"
            )
        return self.find(ref)
