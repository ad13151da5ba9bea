"""How a job is to be classified, where it is not to be as ever: crops, labels, threshold, temperature, reuse.

One model validates them wherever they come in, and says what a row keeps: what differs from the defaults, and
nothing at all for a job as ever.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import IntEnum
from typing import Annotated, Any, Self, TypedDict

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from alexq_schema.errors import AlexqError, MessageError, UsageError
from alexq_schema.job import TOP_K

MAX_TOP_K = 100
"""Labels that a job may ask for; a model that has fewer gives those."""

MAX_TEMPERATURE = 100.0


class Crops(IntEnum):
    """How many crops of an image the model sees; their probabilities are averaged."""

    ONE = 1
    """The centre."""
    TEN = 10
    """Four corners and the centre, and their mirror images. Source: Krizhevsky et al. 2012, section 4.1."""


TopK = Annotated[int, Field(ge=1, le=MAX_TOP_K)]
MinProbability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Temperature = Annotated[float, Field(gt=0, le=MAX_TEMPERATURE, allow_inf_nan=False)]


class OptionFields(TypedDict, total=False):
    """What a call may say of its images; see :class:`Options`."""

    crops: int
    top_k: int
    min_probability: float
    temperature: float
    reuse: bool


class Options(BaseModel):
    """How a job is to be classified."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    crops: Crops = Crops.ONE
    top_k: TopK = TOP_K
    """Labels of the answer, at most as many as the model has."""
    min_probability: MinProbability = 0.0
    """Labels that are less likely are left out, all of them perhaps."""
    temperature: Temperature = 1.0
    """What the network's outputs are divided by: above 1 the probabilities are more even, below less."""
    reuse: bool = False
    """Whether a past result of the same tenant, for the same bytes, version and options, may answer."""

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self | None:
        """Return the options of a call, or None where they are all as ever.

        Raises:
            UsageError: one makes no sense; names it.
        """
        return cls._read(given, UsageError) if given else None

    @classmethod
    def read(cls, stored: Mapping[str, Any] | None) -> Self | None:
        """Return what the options that a row keeps ask of the model, which ``reuse`` does not concern.

        Raises:
            MessageError: a later release's, which this one does not know.
        """
        options = cls._read(stored, MessageError) if stored else None
        if options is None or not options.reuse:
            return options
        return cls._read(options.stored() | {"reuse": False}, MessageError)

    @classmethod
    def reusing(cls, options: Options | None) -> Options:
        """Return ``options``, with reuse."""
        return (options or cls()).model_copy(update={"reuse": True})

    @classmethod
    def _read(cls, given: Mapping[str, Any], error_class: type[AlexqError]) -> Self | None:
        try:
            options = cls.model_validate(given)
        except ValidationError as error:
            told = "; ".join(f"{one['loc'][0]}={one['input']!r}: {one['msg']}" for one in error.errors())
            raise error_class(f"options of the job: {told}") from error
        return options if options.stored() else None

    def stored(self) -> dict[str, Any]:
        """Return what a row keeps: what differs from the defaults."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @property
    def entries(self) -> int:
        """Pictures that the model sees of one image."""
        return int(self.crops)


def asked_of_model(stored: Mapping[str, Any] | None) -> str:
    """Return the same text for rows' options that ask the same of the model, this release's or not."""
    if not stored:
        return "{}"
    return json.dumps({name: value for name, value in stored.items() if name != "reuse"}, sort_keys=True)
