"""What a worker tells of each commit to those who trace.

Everything is recorded afterwards, from the times that the pipeline notes anyway: no stage knows of it.
A batch belongs to many traces, so it is a trace of its own, linked with them; each sampled job has a span in
the trace that handed it in, linked with its batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

from alexq_schema import tracing
from alexq_schema.names import DEFAULT_QUEUE, queue_name
from alexq_schema.tracing import PROCESS
from alexq_schema.work import Answered
from alexq_worker.pipeline.commit import BatchReport, CommitReport, JobReport, code_of
from alexq_worker.pipeline.flow import Item, with_followers

if TYPE_CHECKING:
    from alexq_schema.tracing import Span


@dataclass(frozen=True, slots=True)
class Recorded:
    """The spans of one commit: by which log lines find their trace."""

    batches: dict[int, Span] = field(default_factory=dict)
    """By the batch's number."""
    jobs: dict[UUID, Span] = field(default_factory=dict)
    """Of sampled jobs."""


class Traces:
    """Belongs to the committer's thread."""

    def __init__(
        self,
        worker_id: UUID,
        device: str,
        queue: str = DEFAULT_QUEUE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare.

        Args:
            worker_id: whose batches they are.
            device: its name, for people.
            queue: what it serves.
            clock: the pipeline's.
        """
        self._clock = clock
        self._queue = queue
        self._of_worker: Mapping[str, str] = {
            **PROCESS,
            "alexq.worker.id": str(worker_id),
            "alexq.device": device,
        }

    def record(self, report: CommitReport) -> Recorded:
        """Record the spans of one transaction: four for a batch, and one for each sampled job."""
        recorded = Recorded()
        if not tracing.is_on():
            return recorded
        began_at = time.time() - self._clock()  # the pipeline's clock has no date
        batch_of: dict[UUID, Span] = {}
        for batch in report.batches:
            of_batch = with_followers(batch.items)
            made = self._batch(batch, of_batch, report, began_at)
            if made is not None:
                recorded.batches[batch.batch_id] = made
                batch_of.update((item.claim.job_id, made) for item in of_batch if item.claim.traceparent)
        for job in report.jobs:
            claim = job.outcome.claim
            if claim.traceparent:
                made = self._job(job, began_at + report.ended_at, batch_of.get(claim.job_id))
                if made is not None:
                    recorded.jobs[claim.job_id] = made
        return recorded

    def _batch(
        self, batch: BatchReport, of_batch: Sequence[Item], report: CommitReport, began_at: float
    ) -> Span | None:
        claimed_at = min(item.claimed_at for item in batch.items)
        decode_at = min(item.decoded_at - item.decode_s for item in batch.items)
        decoded_at = max(item.decoded_at for item in batch.items)
        forwarded_at = batch.began_at + batch.forward_s
        made = tracing.record(
            "batch",
            began_at + claimed_at,
            began_at + report.ended_at,
            "consumer",
            {
                **self._of_worker,
                "messaging.batch.message_count": batch.size,
                "alexq.batch.id": batch.batch_id,
                "alexq.model": batch.model,
                "alexq.batch.limit": batch.limit,
                "alexq.batch.shared": batch.shared,
            },
            links=[item.claim.traceparent for item in of_batch if item.claim.traceparent],
        )
        stages = {
            "decode": (decode_at, decoded_at),
            "forward": (batch.began_at, forwarded_at),
            "commit": (report.ended_at - report.commit_s, report.ended_at),
        }
        for name, (start, end) in stages.items():
            tracing.record(name, began_at + start, began_at + end, parent=made)
        return made

    def _job(self, job: JobReport, ended_at: float, batch: Span | None) -> Span | None:
        outcome, claim = job.outcome, job.outcome.claim
        return tracing.record(
            "classify job",
            ended_at - (job.total_s - claim.waited_s),
            ended_at,
            "consumer",
            {
                **self._of_worker,
                "messaging.destination.name": queue_name(job.lane, self._queue),
                "messaging.message.id": str(claim.job_id),
                "alexq.job.id": str(claim.job_id),
                "alexq.submission.id": str(claim.submission_id or ""),
                "alexq.attempt": claim.attempt,
                "alexq.waited_s": claim.waited_s,
            },
            parent=claim.traceparent,
            links=[] if batch is None else [batch],
            error="" if isinstance(outcome, Answered) else code_of(outcome),
        )
