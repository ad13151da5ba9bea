"""What passes between a worker and its isolation child: one JSON object a line, and nothing else.

    worker ─▶ child     Setup, then a Job at a time
    worker ◀─ child     Ready or JobErrored, then for each Job: Begun, Classified | ImageFailed | JobErrored

The child handles hostile input, so its answers are hostile too: the worker checks each one against
these models and against the job that it asked about.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from alexq_schema.messages import Sha256
from alexq_schema.names import PrecisionChoice
from alexq_schema.options import MAX_TOP_K, Options
from alexq_schema.settings import LogFormat, Settings

MAX_ANSWER_BYTES = 65_536
"""A longer answer is none."""

MAX_DETAIL = 4_000
"""Characters of an error's text."""

OUT_OF_MEMORY = 83
"""Exit code of a child that broke its memory limit; it cannot be trusted to build an answer."""

Code = Annotated[str, Field(pattern=r"^[a-z_]{1,64}$")]
# PostgreSQL has no NUL in text: one would make the whole batch's commit fail.
Detail = Annotated[str, Field(max_length=MAX_DETAIL, pattern=r"^[^\x00]*$")]
Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Duration = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Line(BaseModel):
    """The base: immutable, no unknown fields, no coercion."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def to_line(self) -> bytes:
        """Return the message as one line."""
        return self.model_dump_json().encode() + b"\n"


class Setup(Line):
    """What the child serves and may take."""

    images_url: str
    models_dir: Path
    model: str = ""
    """``name/version``; the worker says which before it starts a child."""
    device: str
    precision: PrecisionChoice
    max_image_pixels: int
    memory_bytes: int
    """Above what the child holds once the model is warm; Linux only."""
    log_format: LogFormat = "console"

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return what the worker's settings say."""
        return cls(
            images_url=settings.images_url,
            models_dir=settings.models_dir,
            device=settings.device,
            precision=settings.precision,
            max_image_pixels=settings.max_image_pixels,
            memory_bytes=settings.isolation_memory_bytes,
            log_format=settings.log_format,
        )

    def serving(self, ref: str) -> Self:
        """Return this setup for the version ``ref``."""
        return self.model_copy(update={"model": ref})


class Job(Line):
    """Classify one stored image."""

    job_id: UUID
    image_key: Sha256
    cpu_s: float
    """CPU time that it may take."""
    options: Options | None = None
    """How it is to be classified; None: as ever."""


class Ready(Line):
    """The model is warm and the limits are set."""

    kind: Literal["ready"] = "ready"


class Begun(Line):
    """The job has been read: from here on, what becomes of the child is the job's fault."""

    kind: Literal["begun"] = "begun"
    job_id: UUID


class Classified(Line):
    """The image went through the model."""

    kind: Literal["classified"] = "classified"
    job_id: UUID
    indices: list[Annotated[int, Field(ge=0)]] = Field(min_length=1, max_length=MAX_TOP_K)
    """Best first."""
    probabilities: list[Probability] = Field(min_length=1, max_length=MAX_TOP_K)
    decode_s: Duration
    forward_s: Duration


class ImageFailed(Line):
    """The input's fault."""

    kind: Literal["image_failed"] = "image_failed"
    job_id: UUID
    code: Code
    detail: Detail


class JobErrored(Line):
    """Ours, and the child lives; without ``job_id`` the child could not get ready."""

    kind: Literal["job_errored"] = "job_errored"
    job_id: UUID | None
    code: Code
    detail: Detail
    is_retryable: bool


Answer = Ready | Begun | Classified | ImageFailed | JobErrored

_answer: TypeAdapter[Answer] = TypeAdapter(Annotated[Answer, Field(discriminator="kind")])


def parse_answer(line: bytes) -> Answer:
    """Return the answer in ``line``.

    Raises:
        pydantic.ValidationError: it is none.
    """
    return _answer.validate_json(line)


def readable(text: str) -> str:
    """Return an error's text as :data:`Detail` allows it."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()[:MAX_DETAIL]
