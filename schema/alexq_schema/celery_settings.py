"""How alexq uses Celery: the settings that every side shares, and how job ids are published."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import islice
from typing import Any
from uuid import UUID

from alexq_schema.broker import BrokerAddress
from alexq_schema.ids import new_id
from alexq_schema.messages import ClassifyImage, ClassifyJobs, Unpublished
from alexq_schema.names import (
    DEFAULT_QUEUE,
    HEADER_JOBS,
    IDS_PER_MESSAGE,
    QUEUE_CLASSIFY,
    TASK_CLASSIFY_IMAGE,
    TASK_CLASSIFY_JOBS,
    QueueLane,
    lanes_of,
)
from alexq_schema.settings import Settings


def celery_config(settings: Settings) -> dict[str, Any]:
    """Return the configuration of a Celery app that speaks to alexq's queue: JSON only, no surprises."""
    broker = BrokerAddress.parse(settings.broker_url).celery
    return {
        **broker,
        "broker_transport_options": {
            **broker["broker_transport_options"],
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
        "task_queues": {at.name: {} for queue in (DEFAULT_QUEUE, settings.queue) for at in lanes_of(queue)},
        "task_create_missing_queues": False,
        "enable_utc": True,
    }


def celery_worker_config(settings: Settings) -> dict[str, Any]:
    """Return that of an app whose process consumes: late acks, events, our own log, endless retries."""
    return {
        **celery_config(settings),
        "task_acks_late": True,
        "worker_prefetch_multiplier": 1,
        "worker_send_task_events": True,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
    }


def publish(app: Any, jobs: Iterable[Unpublished]) -> None:
    """Tell workers to look at these rows; pipelined, many ids to a message.

    Args:
        app: a Celery app configured with :func:`celery_config`.

    Raises:
        kombu.exceptions.KombuError, OSError: the broker does not answer; any part may have gone out.
    """
    alike: defaultdict[tuple[str, QueueLane], list[Unpublished]] = defaultdict(list)
    for job in jobs:
        alike[job.task, QueueLane(job.queue, job.lane)].append(job)
    known = app.amqp.queues
    with app.producer_or_acquire() as producer, producer.batch():
        for (task, at), of_one_kind in alike.items():
            queue = known[at.name] if at.name in known else known.add(at.name)
            for task_id, kwargs, count, told in _messages(task, of_one_kind):
                app.send_task(
                    task,
                    kwargs=kwargs,
                    task_id=str(task_id),
                    kwargsrepr=told,
                    headers={HEADER_JOBS: count},
                    queue=queue,
                    producer=producer,
                    retry=False,
                    ignore_result=task == TASK_CLASSIFY_JOBS,
                )


def _messages(task: str, jobs: list[Unpublished]) -> Iterable[tuple[UUID, dict[str, Any], int, str]]:
    """Yield task id, body, its number of jobs, and what Flower shows of it."""
    if task == TASK_CLASSIFY_IMAGE:  # Celery's own door: the task id is the job id
        for job in jobs:
            yield job.job_id, ClassifyImage().model_dump(exclude_none=True), 1, "image of an earlier message"
        return
    remaining = iter(jobs)
    while chunk := list(islice(remaining, IDS_PER_MESSAGE)):
        body = ClassifyJobs(job_ids=[job.job_id for job in chunk]).model_dump(mode="json")
        yield new_id(), body, len(chunk), _told(chunk)


def _told(jobs: list[Unpublished]) -> str:
    what = f"job {jobs[0].job_id}" if len(jobs) == 1 else f"{len(jobs)} jobs"
    submissions = {job.submission_id for job in jobs}
    of = f"submission {jobs[0].submission_id}" if len(submissions) == 1 else f"{len(submissions)} submissions"
    return f"{what} of {of}"
