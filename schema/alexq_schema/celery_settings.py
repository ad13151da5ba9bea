"""How alexq uses Celery: the settings that every side shares, and how job ids are published."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import islice
from typing import Any
from uuid import UUID

from alexq_schema.ids import new_id
from alexq_schema.messages import ClassifyImage, ClassifyJobs
from alexq_schema.names import (
    HEADER_JOBS,
    IDS_PER_MESSAGE,
    QUEUE_CLASSIFY,
    QUEUES,
    TASK_CLASSIFY_IMAGE,
    TASK_CLASSIFY_JOBS,
    Lane,
)
from alexq_schema.settings import Settings


def celery_config(settings: Settings) -> dict[str, Any]:
    """Return the configuration of a Celery app that speaks to alexq's queue: JSON only, no surprises."""
    return {
        "broker_url": settings.broker_url,
        "broker_transport_options": {
            # Publishing gives up in bounded time: the row is the truth and the sweeper publishes later.
            "socket_connect_timeout": settings.publish_timeout_s,
            "socket_timeout": settings.publish_timeout_s,
            "max_retries": 1,
            "interval_start": 0,
        },
        "accept_content": ["json"],
        "task_serializer": "json",
        "result_serializer": "json",
        "task_default_queue": QUEUE_CLASSIFY,
        "task_queues": {name: {} for name in QUEUES},
        "task_create_missing_queues": False,
        "enable_utc": True,
    }


def publish(app: Any, jobs: Iterable[tuple[UUID, str, Lane]]) -> None:
    """Tell workers to look at these (job id, task name, lane) rows; pipelined, many ids to a message.

    Args:
        app: a Celery app configured with :func:`celery_config`.

    Raises:
        kombu.exceptions.KombuError, OSError: the broker does not answer; any part may have gone out.
    """
    alike: defaultdict[tuple[str, Lane], list[UUID]] = defaultdict(list)
    for job_id, task, lane in jobs:
        alike[task, lane].append(job_id)
    with app.producer_or_acquire() as producer, producer.batch():
        for (task, lane), job_ids in alike.items():
            for task_id, kwargs, count, told in _messages(task, job_ids):
                app.send_task(
                    task,
                    kwargs=kwargs,
                    task_id=str(task_id),
                    kwargsrepr=told,
                    headers={HEADER_JOBS: count},
                    queue=lane.queue,
                    producer=producer,
                    retry=False,
                    ignore_result=task == TASK_CLASSIFY_JOBS,
                )


def _messages(task: str, job_ids: list[UUID]) -> Iterable[tuple[UUID, dict[str, Any], int, str]]:
    """Yield task id, body, its number of jobs, and what Flower shows of it."""
    if task == TASK_CLASSIFY_IMAGE:  # Celery's own door: the task id is the job id
        for job_id in job_ids:
            yield job_id, ClassifyImage().model_dump(exclude_none=True), 1, "image of an earlier message"
        return
    remaining = iter(job_ids)
    while chunk := list(islice(remaining, IDS_PER_MESSAGE)):
        count = len(chunk)
        yield new_id(), ClassifyJobs(job_ids=chunk).model_dump(mode="json"), count, f"{count} jobs"
