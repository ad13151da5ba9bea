"""The tables. Migrations make them; a test holds the two together."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String, Text, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from alexq_schema.db.clock import UtcDateTime


def _partial(name: str, *columns: str, where: str) -> Index:
    return Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))


_WAY = ("queue", "lane", "published_at", "retry_at", "id")
"""In which order what waits is looked through."""


class Base(DeclarativeBase):
    """Declares how Python types are stored."""

    type_annotation_map = {datetime: UtcDateTime()}  # noqa: RUF012


class Submission(Base):
    """The jobs that one call handed in."""

    __tablename__ = "submissions"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    created_at: Mapped[datetime]
    total: Mapped[int]
    """Jobs accepted."""
    tenant: Mapped[str | None] = mapped_column(String(64))
    """Whose it is, for submissions that came over HTTP with an API key."""

    __table_args__ = (Index("ix_submissions_tenant", "tenant", "id"),)


class ModelVersion(Base):
    """A model version as some worker has served it; results refer to it."""

    __tablename__ = "model_versions"
    __table_args__ = (UniqueConstraint("name", "version", "precision", "weights_sha256"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    version: Mapped[str] = mapped_column(String(64))
    precision: Mapped[str] = mapped_column(String(16))
    weights_sha256: Mapped[str] = mapped_column(String(64))
    trained: Mapped[bool]


class Worker(Base):
    """One worker process: there while it lives, ``stopped_at`` set when it left in good order."""

    __tablename__ = "workers"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    host: Mapped[str] = mapped_column(String(255))
    pid: Mapped[int]
    device: Mapped[str] = mapped_column(String(255))
    model_id: Mapped[int] = mapped_column(ForeignKey("model_versions.id"))
    """What it serves now."""
    refused_model: Mapped[str | None] = mapped_column(String(129))
    """``name/version`` of the active version, where this worker cannot use it and goes on with another."""
    refused_reason: Mapped[str | None] = mapped_column(Text)
    started_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]
    """Renewed while the worker's pipeline makes progress."""
    stopped_at: Mapped[datetime | None]
    unhealthy_at: Mapped[datetime | None]
    """When the worker found itself unable to get on; it ends right after."""
    unhealthy_reason: Mapped[str | None] = mapped_column(String(255))
    memory_used_bytes: Mapped[int | None] = mapped_column(BigInteger)
    """Of the device's memory, by whomever; on the CPU, by this process."""
    memory_total_bytes: Mapped[int | None] = mapped_column(BigInteger)
    batch_limit: Mapped[int | None]
    """Images in one of its batches, at most."""
    queue: Mapped[str] = mapped_column(String(32), server_default="")
    """The queue that it serves."""


class Job(Base):
    """One image to classify, and what became of it."""

    __tablename__ = "jobs"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    submission_id: Mapped[UUID | None] = mapped_column(ForeignKey("submissions.id"))
    """None for a job that came through Celery's own door."""
    position: Mapped[int]
    """Place in the submission, from 0."""
    traceparent: Mapped[str | None] = mapped_column(String(55))
    """The sampled trace that it was handed in by, as W3C writes it."""
    task: Mapped[str] = mapped_column(String(64))
    """The Celery task whose message serves this job."""
    lane: Mapped[str] = mapped_column(String(16), server_default="bulk")
    """In which of its queue's two lanes it waits: ``interactive`` or ``bulk``."""
    queue: Mapped[str] = mapped_column(String(32), server_default="")
    """The queue whose workers do it; the default one has no name."""
    source: Mapped[str] = mapped_column(String(1024))
    image_key: Mapped[str] = mapped_column(String(64))
    """SHA-256 of the image, its key in the image store."""
    image_bytes: Mapped[int]
    pinned_model: Mapped[str | None] = mapped_column(String(129))
    """``name/version`` that it must be done with; None: whichever is active."""
    options: Mapped[dict[str, Any] | None] = mapped_column(
        JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
    )
    """What differs from :class:`alexq_schema.options.Options` as they are by default."""

    state: Mapped[str] = mapped_column(String(16))
    attempt: Mapped[int]
    """The fence: grows at every claim, and a commit names it."""
    errors: Mapped[int]
    """Attempts that ended in an error of ours."""
    crashes: Mapped[int]
    """Processes that died while they held this job."""
    worker_id: Mapped[UUID | None] = mapped_column(ForeignKey("workers.id"))
    """Who holds it, or held it last."""
    retry_at: Mapped[datetime | None]
    """After an error of ours: not before this."""
    expires_at: Mapped[datetime | None]
    """The deadline: still queued then, the job expires."""

    created_at: Mapped[datetime]
    published_at: Mapped[datetime | None]
    """When its message went out; None asks the sweeper to publish it."""
    claimed_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    decode_s: Mapped[float | None]
    forward_s: Mapped[float | None]
    batch_size: Mapped[int | None]
    """Images of its batch; None where it had no place in one: another's forward or a past result answered."""
    reused_from: Mapped[UUID | None]
    """The job whose past result answers this one; it may be gone."""

    model_id: Mapped[int | None] = mapped_column(ForeignKey("model_versions.id"))
    label: Mapped[str | None] = mapped_column(String(255))
    probability: Mapped[float | None]
    predictions: Mapped[list[dict[str, Any]] | None] = mapped_column(
        JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
    )
    """Best first: ``{"index", "label", "probability"}``."""
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_detail: Mapped[str | None] = mapped_column(Text)

    # Each change of an index costs every job that is served; of these, one serves every statement. Rows
    # enter and leave those of waiting and running jobs; the rest is written once, when a job is accepted
    # (submission, image) or ends.
    __table_args__ = (
        Index("ix_jobs_in_submission", "submission_id", "id"),
        Index("ix_jobs_image", "image_key"),
        _partial("ix_jobs_unclaimed", *_WAY, where="state = 'queued'"),
        _partial("ix_jobs_expiring", "expires_at", where="state = 'queued' AND expires_at IS NOT NULL"),
        _partial("ix_jobs_running", "worker_id", where="state = 'running'"),
        _partial("ix_jobs_ended", "state", "id", where="state NOT IN ('queued', 'running')"),
        _partial("ix_jobs_finished", "finished_at", where="finished_at IS NOT NULL"),
        _partial("ix_jobs_labelled", "label", "id", where="label IS NOT NULL"),
    )


class JobEvent(Base):
    """What happened to a job besides the one way that succeeds: its history, and who meddled."""

    __tablename__ = "job_events"

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    at: Mapped[datetime]
    kind: Mapped[str] = mapped_column(String(16))
    """``errored``, ``crashed``, ``redriven`` or ``cancelled``."""
    attempt: Mapped[int]
    worker_id: Mapped[UUID | None]
    code: Mapped[str | None] = mapped_column(String(64))
    """The error's code; of a redriven job, the one it was dead of."""
    detail: Mapped[str | None] = mapped_column(Text)
    actor: Mapped[str | None] = mapped_column(String(255))
    """The person or program that redrove or cancelled it."""

    __table_args__ = (Index("ix_job_events_job", "job_id"),)


class CanaryResult(Base):
    """What a version that is tried beside the active one says of a job; the job's own row has the result."""

    __tablename__ = "canary_results"

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    model_id: Mapped[int] = mapped_column(ForeignKey("model_versions.id"))
    at: Mapped[datetime]
    label: Mapped[str | None] = mapped_column(String(255))
    probability: Mapped[float | None]

    __table_args__ = (
        UniqueConstraint("model_id", "job_id"),
        Index("ix_canary_results_job", "job_id"),
    )


class PastResult(Base):
    """A result that may answer later jobs of its tenant; see :mod:`alexq_schema.db.past_results`."""

    __tablename__ = "past_results"

    id: Mapped[int] = mapped_column(primary_key=True)
    image_key: Mapped[str] = mapped_column(String(64))
    tenant: Mapped[str] = mapped_column(String(64))
    """Empty for jobs without one."""
    model_id: Mapped[int] = mapped_column(ForeignKey("model_versions.id"))
    """Name, version, precision and weights that made it."""
    options: Mapped[str] = mapped_column(Text)
    """As :func:`alexq_schema.options.asked_of_model` writes them."""
    job_id: Mapped[UUID]
    """Whose result it is; that job may be gone."""
    finished_at: Mapped[datetime]
    predictions: Mapped[list[dict[str, Any]]] = mapped_column(JSON().with_variant(JSONB(), "postgresql"))

    __table_args__ = (
        UniqueConstraint("image_key", "tenant", "model_id", "options"),
        Index("ix_past_results_finished", "finished_at"),
    )


class RefusedMessage(Base):
    """A message from which no job could be made: unknown task, version, shape or encoding."""

    __tablename__ = "refused_messages"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    task: Mapped[str] = mapped_column(String(255))
    message_id: Mapped[str] = mapped_column(String(255))
    code: Mapped[str] = mapped_column(String(64))
    detail: Mapped[str] = mapped_column(Text)


class Sweeper(Base):
    """One row: who sweeps now, and since when Redis has kept what it was told."""

    __tablename__ = "sweeper"

    id: Mapped[int] = mapped_column(primary_key=True)
    holder: Mapped[UUID | None]
    held_until: Mapped[datetime | None]
    queue_epoch: Mapped[str | None] = mapped_column(String(36))
    """What Redis holds under ``alexq:queue:epoch`` for as long as its data lasts."""
    queue_epoch_began_at: Mapped[datetime | None]
    """Messages published before this are lost; None before the first loss."""


class SchemaCompatibility(Base):
    """One row: the oldest release, by the revision it was written for, that may work on this schema."""

    __tablename__ = "schema_compatibility"

    id: Mapped[int] = mapped_column(primary_key=True)
    oldest_revision: Mapped[str] = mapped_column(String(32))
