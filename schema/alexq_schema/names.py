"""Every name that two processes must spell alike: Celery tasks, queues and Redis keys."""

from __future__ import annotations

from typing import Final
from uuid import UUID

TASK_CLASSIFY_JOBS: Final = "alexq.classify_jobs"
"""Celery task: look at these job ids. Published by producers and the sweeper."""

TASK_CLASSIFY_IMAGE: Final = "alexq.classify_image"
"""Celery task: classify the image in, or named by, this message. Its task id is the job id."""

QUEUE_CLASSIFY: Final = "alexq.classify"
"""Celery queue (a Redis list) that carries both tasks."""

KEY_QUEUE_EPOCH: Final = "alexq:queue:epoch"
"""String without expiry, known to the database too: gone or other, Redis has lost its data."""

IDS_PER_MESSAGE: Final = 64
"""Job ids in one ``alexq.classify_jobs`` message: as many as a full batch by default."""


def finished_channel(waited_for: UUID) -> str:
    """Return the Redis pub/sub channel that announces a submission's finished jobs, or one lone job."""
    return f"alexq:{waited_for}:finished"
