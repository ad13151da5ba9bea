"""Accepting submissions: images on disk, rows committed, messages sent; for all that come at once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress
from uuid import UUID

from celery import Celery
from kombu.exceptions import KombuError

from alexq_producer.combining import Combining
from alexq_producer.trailing import Trailing
from alexq_schema import tracing
from alexq_schema.celery_settings import publish
from alexq_schema.db import accept, idempotency, publishing
from alexq_schema.db.accept import NewSubmission
from alexq_schema.db.idempotency import Claim
from alexq_schema.db.session import Database
from alexq_schema.errors import DatabaseUnavailableError
from alexq_schema.images import ImageStore, Staging
from alexq_schema.messages import Unpublished
from alexq_schema.names import TASK_CLASSIFY_JOBS, queue_name

MAX_UNSENT = 50_000
"""Jobs whose messages wait to go out, where they go out later; those of more are left to the sweeper."""

log = logging.getLogger("alexq.producer")


@dataclass(frozen=True, slots=True)
class _Request:
    submission: NewSubmission
    staging: Staging
    claim: Claim | None


def _about(submission: NewSubmission) -> dict[str, object]:
    """Return what the log says of a submission: of many jobs how many, as each batch names its own."""
    jobs = submission.jobs
    its = {"job_id": jobs[0].job_id} if len(jobs) == 1 else {"jobs": len(jobs)}
    return {"submission_id": submission.submission_id, "lane": submission.lane.value, **its}


class Acceptance:
    """One sync, one transaction and one pipelined publish for all threads that submit at the same time."""

    def __init__(
        self, images: ImageStore, database: Database, celery: Celery, *, publishes_later: bool = False
    ) -> None:
        """Prepare.

        Args:
            publishes_later: messages go out after :meth:`accept` has returned, so that a silent broker
                delays nobody; for a process that stays. What is unsent when it dies, the sweeper notices.
        """
        self._images = images
        self._database = database
        self._celery = celery
        self._accept_together = Combining(self._accept)
        self._later = Trailing(self._send, MAX_UNSENT) if publishes_later else None

    def accept(self, submission: NewSubmission, staging: Staging, claim: Claim | None = None) -> bool:
        """Return when the submission is accepted, whole: on disk, and its messages sent or marked as due.

        Args:
            claim: the idempotency key that it is to be known by from the same moment on.

        Returns:
            False: its key stands for another submission already, and nothing was accepted.

        Raises:
            ImageStoreError, DatabaseUnavailableError: nothing was accepted.
        """
        staging.prepare()  # an upload of its own, where there is one, holds nobody else up
        queue = queue_name(submission.lane, submission.queue)
        told: tracing.Attributes = {
            **tracing.SEND,
            "messaging.destination.name": queue,
            "messaging.batch.message_count": len(submission.jobs),
            "alexq.submission.id": str(submission.submission_id),
        }
        with tracing.span(f"publish {queue}", "producer", told):
            if traceparent := tracing.traceparent():
                submission = replace(submission, traceparent=traceparent)
            is_accepted = self._accept_together(_Request(submission, staging, claim))
            if is_accepted and log.isEnabledFor(logging.INFO):
                log.info("accepted", extra=_about(submission))
            return is_accepted

    def _accept(self, requests: Sequence[_Request]) -> list[bool]:
        self._images.publish([request.staging for request in requests])
        claims = [request.claim for request in requests if request.claim is not None]
        # One transaction: a submission is accepted whole, with its key, or not at all.
        with self._database.begin() as connection:
            claimed = idempotency.claim(connection, claims)
            is_accepted = [
                request.claim is None or request.claim.submission_id in claimed for request in requests
            ]
            accepted = [request.submission for request in compress(requests, is_accepted)]
            if accepted:
                accept.add(connection, accepted)
        self._publish(accepted)
        return is_accepted

    def close(self, timeout_s: float) -> None:
        """Send what is unsent, for ``timeout_s`` at the longest; accept nothing afterwards."""
        if self._later is not None:
            self._later.close(timeout_s)

    def _publish(self, submissions: Sequence[NewSubmission]) -> None:
        jobs = [
            Unpublished(
                job.job_id, submission.submission_id, TASK_CLASSIFY_JOBS, submission.lane, submission.queue
            )
            for submission in submissions
            for job in submission.jobs
        ]
        if self._later is None:
            self._send(jobs)
        elif not self._later.put(jobs):
            self._ask_sweeper([job.job_id for job in jobs])

    def _send(self, jobs: Sequence[Unpublished]) -> None:
        try:
            publish(self._celery, jobs)
        except (KombuError, OSError) as error:
            log.warning("the broker does not answer (%s): %d accepted jobs go out later", error, len(jobs))
            self._ask_sweeper([job.job_id for job in jobs])

    def _ask_sweeper(self, job_ids: Sequence[UUID]) -> None:
        try:
            with self._database.begin() as connection:
                publishing.mark_unpublished(connection, job_ids)
        except DatabaseUnavailableError as error:
            # The rows are committed: the sweeper finds them by their age instead of by this mark.
            log.warning("could not mark %d jobs for publishing: %s", len(job_ids), error)
