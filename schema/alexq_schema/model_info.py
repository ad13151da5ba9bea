"""What ``model.json`` says of a model version, and the file ``canary`` of a version that is tried."""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from alexq_schema.messages import Sha256
from alexq_schema.names import Precision
from alexq_schema.training import TrainingInfo

PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""A name or a version, as a regular expression."""
NamePart = Annotated[str, StringConstraints(pattern=f"^{PART}$")]


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
    agreement: dict[Precision, Agreement] | None = None
    """With fp32, by precision, as `alexq models quantize` measured it."""

    @property
    def ref(self) -> str:
        """``name/version``."""
        return f"{self.name}/{self.version}"


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
