"""The bodies of Celery messages: JSON, versioned, ids only, except through Celery's own door.

A worker refuses a version or a shape that it does not know (:class:`~alexq_schema.errors.MessageError`):
during a rolling change, workers are upgraded before producers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from alexq_schema.errors import MessageError
from alexq_schema.names import DEFAULT_QUEUE, IDS_PER_MESSAGE, Lane
from alexq_schema.options import Options

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Message(BaseModel):
    """The base: immutable, no unknown fields, and the version must be known."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1

    @classmethod
    def parse(cls, body: dict[str, Any]) -> Self:
        """Return the message in ``body``.

        Raises:
            MessageError: unknown version, missing, unknown or malformed field.
        """
        return cls._refused_by_name(lambda: cls.model_validate(body))

    @classmethod
    def parse_json(cls, body: bytes) -> Self:
        """Return the message in the JSON text ``body``; raises as :meth:`parse`."""
        return cls._refused_by_name(lambda: cls.model_validate_json(body))

    @classmethod
    def _refused_by_name(cls, validate: Callable[[], Self]) -> Self:
        try:
            return validate()
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, p['loc'])) or 'message'}: {p['msg']}" for p in error.errors()
            )
            raise MessageError(f"{cls.__name__} message refused: {problems}") from error


class Unpublished(NamedTuple):
    """A job whose message is to go out."""

    job_id: UUID
    submission_id: UUID | None
    task: str
    lane: Lane
    queue: str = DEFAULT_QUEUE


class ClassifyJobs(Message):
    """Look at these jobs: their rows and images are already stored."""

    job_ids: list[UUID] = Field(min_length=1, max_length=16 * IDS_PER_MESSAGE)


class ClassifyImage(Message):
    """Classify one image, sent by a Celery client that knows nothing of alexq.

    Exactly one of ``image_base64`` and ``image_key`` is set when the client sends it. The sweeper
    sends it again with neither: the row already names the image.
    """

    image_base64: str | None = None
    image_key: Sha256 | None = None
    source: str = Field(default="", max_length=1024)
    model: str | None = Field(default=None, max_length=129)
    """``name/version`` that it must be done with; by default whichever is active."""
    options: Options | None = None
    """How it is to be classified; by default as ever."""

    @model_validator(mode="after")
    def _one_image_at_most(self) -> Self:
        if self.image_base64 is not None and self.image_key is not None:
            raise ValueError("give image_base64 or image_key, not both")
        return self


class DeliverWebhook(Message):
    """Make the next attempt at this delivery, if it has been attempted so often."""

    delivery_id: UUID
    webhook_id: UUID
    attempts: int = Field(ge=0)


class Finished(Message):
    """Announcement to those who wait for a submission: these jobs reached a terminal state."""

    job_ids: list[UUID]
