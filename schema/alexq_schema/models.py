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
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from alexq_schema.errors import ModelInvalidError, ModelNotFoundError
from alexq_schema.messages import Sha256
from alexq_schema.names import Precision
from alexq_schema.training import TrainingInfo

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
HISTORY = "active.log"
NamePart = Annotated[str, StringConstraints(pattern=f"^{_PART}$")]


class Preprocessing(BaseModel):
    """From a decoded RGB image to the network's input. Source: torchvision's IMAGENET1K transforms."""

    model_config = ConfigDict(frozen=True)

    resize: int = Field(default=256, ge=1)
    """Pixels of the shorter side after the (antialiased, bilinear) resize."""
    crop: int = Field(default=224, ge=1)
    """Pixels of the side of the centred square crop."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


class ClassAgreement(BaseModel):
    """How often a precision names the class that fp32 names, of the images to which fp32 gives one class."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int = Field(ge=1)
    top1: float = Field(ge=0, le=1)


class Agreement(BaseModel):
    """How a precision compares with fp32 on images that had no part in choosing its scales."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int = Field(ge=1)
    top1: float = Field(ge=0, le=1)
    """Share of the images whose first class is fp32's."""
    top5: float = Field(ge=0, le=1)
    """Share of the images whose five best classes hold fp32's first."""
    kl: float = Field(ge=0, allow_inf_nan=False)
    """Mean Kullback-Leibler divergence from fp32's probabilities, in nats."""
    per_class: dict[str, ClassAgreement]
    """By fp32's label; labels that fp32 gave to no image are left out."""


class Quantisation(BaseModel):
    """What an int8 version was made of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    of: str
    """``name/version`` of the version that was quantised; the fp32 weights are the same."""
    of_sha256: Sha256
    """Of that version's weights file."""
    calibration_images: int = Field(ge=1)
    torch: str
    """The release of PyTorch that did it."""


class ModelInfo(BaseModel):
    """``model.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: NamePart
    version: NamePart
    architecture: str
    """A name that :mod:`alexq_worker.inference` can build."""
    classes: int = Field(ge=2)
    weights_sha256: Sha256
    labels_sha256: Sha256
    preprocessing: Preprocessing = Preprocessing()
    precision: Literal["fp32", "int8"] = "fp32"
    """Of the stored numbers: ``int8`` versions hold scales for 8-bit arithmetic beside the fp32 weights."""
    trained: bool
    """False marks seeded random weights: every result made with them says so."""
    source: str
    """Where the weights came from, for people."""
    training: TrainingInfo | None = None
    """How it was trained and how good it is, where alexq trained it."""
    quantisation: Quantisation | None = None
    agreement: dict[Precision, Agreement] = Field(default_factory=dict)
    """With fp32, by precision, as `alexq models quantize` measured it."""

    @property
    def ref(self) -> str:
        """``name/version``."""
        return f"{self.name}/{self.version}"


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


class Canary(BaseModel):
    """A version that is tried on a share of the jobs, in the shadow of the active one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    """``name/version``."""
    share: float = Field(gt=0, le=1)
    """Of the jobs, chosen by a hash of their ids."""

    def has(self, job_id: UUID) -> bool:
        """Return whether the job is one of the share; the same whoever asks."""
        number = int.from_bytes(hashlib.sha256(job_id.bytes).digest()[:8])
        return number < self.share * 2**64


class ModelStore:
    """The models folder."""

    def __init__(self, models_dir: Path) -> None:
        self.models_dir = models_dir

    def folder(self, ref: str) -> Path:
        """Return the folder of ``name/version``, there or not.

        Raises:
            ModelNotFoundError: ``ref`` is not of that form.
        """
        if not re.fullmatch(f"{_PART}/{_PART}", ref):
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

    def activate(self, ref: str) -> ModelVersion:
        """Make ``ref`` the version that workers serve: running ones take it up within seconds.

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
        self._record(before, ref)
        return version

    def rollback(self) -> ModelVersion:
        """Make the version that was active before this one the active one again.

        Raises:
            ModelNotFoundError: there was none, or it is gone.
            ModelInvalidError: its files are damaged; the active version stays.
        """
        active = self.active_ref()
        for _, ref in reversed(self.history()):
            if ref != active:
                return self.activate(ref)
        raise ModelNotFoundError(
            f"no other version was active in {self.models_dir}: activate one by its name"
        )

    def history(self) -> list[tuple[str, str]]:
        """Return when each activation was, and of which version, oldest first."""
        try:
            lines = (self.models_dir / HISTORY).read_text("utf-8").splitlines()
        except FileNotFoundError:
            return []
        return [(at, ref) for at, _, ref in (line.partition(" ") for line in lines) if ref]

    def _record(self, before: str | None, ref: str) -> None:
        """Add to the history; after the fact, so that what is there was active."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        refs = [before, ref] if before and not self.history() else [ref]  # an earlier release kept none
        with (self.models_dir / HISTORY).open("a", encoding="utf-8") as file:
            file.writelines(f"{at} {one}\n" for one in refs)

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
