"""Announcing finished jobs to those who wait: Redis pub/sub, a hint and never the truth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from alexq_schema.messages import Finished
from alexq_schema.names import finished_channel


def announce(client: Any, finished: Iterable[tuple[UUID | None, UUID]]) -> None:
    """Publish (submission id, job id) pairs in one round trip, one message for each producer.

    A job without a submission is announced on a channel of its own, named by its id.

    Args:
        client: a ``redis.Redis``.

    Raises:
        redis.RedisError, OSError: Redis does not answer; who waits asks the database before long.
    """
    by_channel: defaultdict[str, list[UUID]] = defaultdict(list)
    for submission_id, job_id in finished:
        by_channel[finished_channel(submission_id or job_id)].append(job_id)
    if by_channel:
        with client.pipeline(transaction=False) as pipe:
            for channel, job_ids in by_channel.items():
                pipe.publish(channel, Finished(job_ids=job_ids).model_dump_json())
            pipe.execute()
