"""Model versions on disk: ``<models_dir>/<name>/<version>/{model.json, weights.safetensors, labels.txt}``.

A version is immutable: one architecture, one weights file, one label list. ``<models_dir>/active``
holds the reference (``name/version``) of the one that workers serve.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from alexq_schema.errors import ModelInvalidError, ModelNotFoundError
from alexq_schema.messages import Sha256
from alexq_schema.names import Precision
from alexq_schema.training import TrainingInfo

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
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
        draft = self._active_path.with_suffix(".tmp")
        draft.write_text(ref + "\n", "utf-8")
        draft.replace(self._active_path)
        return version

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
