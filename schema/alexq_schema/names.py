"""Every name that two processes must spell alike: Celery tasks, queues and Redis keys."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal, NamedTuple
from uuid import UUID

from alexq_schema.ids import tag_of

TASK_CLASSIFY_JOBS: Final = "alexq.classify_jobs"
"""Celery task: look at these job ids. Published by producers and the sweeper."""

TASK_CLASSIFY_IMAGE: Final = "alexq.classify_image"
"""Celery task: classify the image in, or named by, this message. Its task id is the job id."""

DEFAULT_QUEUE: Final = ""
"""The queue that has no name: of jobs that name none, and of Celery's own door."""

_MARK: Final = "@"
"""Stands before the name of a queue; no such name holds it."""


class Lane(StrEnum):
    """Who waits for a job: a person or a service, or a submission of many; the first goes first."""

    INTERACTIVE = "interactive"
    BULK = "bulk"


_LISTS: Final = {Lane.INTERACTIVE: "alexq.classify", Lane.BULK: "alexq.classify.bulk"}


def queue_name(lane: Lane, queue: str = DEFAULT_QUEUE) -> str:
    """Return the Celery queue (a Redis list) that carries the messages of a queue's lane.

    ``alexq.classify`` and ``alexq.classify.bulk``, or, of the queue ``vip``, ``alexq.classify@vip`` and
    ``alexq.classify.bulk@vip``.
    """
    return f"{_LISTS[lane]}{_MARK}{queue}" if queue else _LISTS[lane]


def lane_of(name: str) -> Lane:
    """Return the lane that a name of :func:`queue_name` is of."""
    return Lane.BULK if name.partition(_MARK)[0] == _LISTS[Lane.BULK] else Lane.INTERACTIVE


class QueueLane(NamedTuple):
    """Where a job waits: one lane of one queue."""

    queue: str
    lane: Lane

    @property
    def name(self) -> str:
        """The Celery queue that carries its messages."""
        return queue_name(self.lane, self.queue)


def lanes_of(queue: str) -> list[QueueLane]:
    """Return the lanes of a queue, the one that goes first first."""
    return [QueueLane(queue, lane) for lane in Lane]


QUEUE_CLASSIFY: Final = queue_name(Lane.INTERACTIVE)
"""Celery queue of the default queue's interactive lane, and of Celery's own door."""

QUEUES: Final = tuple(map(queue_name, Lane))
"""Every Celery queue of the default queue, the first first."""

TASK_DELIVER_WEBHOOK: Final = "alexq.deliver_webhook"
"""Celery task: make one attempt at a webhook delivery. Published by the processes that run it."""

QUEUE_WEBHOOKS: Final = "alexq.webhooks"
"""Celery queue of webhook deliveries; workers of jobs do not consume it."""

TASK_TRAIN_MODEL: Final = "alexq.train_model"
"""Celery task: train a model version. Its body is a :class:`~alexq_schema.training.TrainModel`."""

QUEUE_TRAIN: Final = "alexq.train"
"""Celery queue of trainings; workers of jobs do not consume it."""

KEY_TRAINING_CANCELLED: Final = "alexq:training:cancelled"
"""Prefix of strings ``alexq:training:cancelled:<training id>`` that expire: it is to end."""

KEY_QUEUE_EPOCH: Final = "alexq:queue:epoch"
"""String without expiry, known to the database too: gone or other, Redis has lost its data."""

KEY_RATE: Final = "alexq:rate"
"""Prefix of strings ``alexq:rate:…/<tenant>/<limit>`` that expire: a tenant's images in this window."""

Precision = Literal["fp32", "bf16", "fp16", "int8"]
"""In what arithmetic a model is served: ``fp32`` is the reference; ``fp16`` is for CUDA devices; ``int8`` for
x86 CPUs and versions that were quantised."""

PrecisionChoice = Precision | Literal["auto"]
"""What a worker may be asked for: ``auto`` is the fastest that agrees with fp32."""

IDS_PER_MESSAGE: Final = 64
"""Job ids in one ``alexq.classify_jobs`` message: as many as a full batch by default."""

HEADER_JOBS: Final = "alexq_jobs"
"""Header of a message: how many jobs it tells of. Workers take no more messages than they have room for."""


def finished_channel(waited_for: UUID) -> str:
    """Return the Redis pub/sub channel that announces a submission's finished jobs, or one lone job.

    It is the producer's: all of its submissions share a tag.
    """
    return f"alexq:finished:{tag_of(waited_for):08x}"
