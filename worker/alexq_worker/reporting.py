"""What is told of each commit: to those who wait, to the metrics, to traces and to the log."""

from __future__ import annotations

import logging

from alexq_schema import tracing
from alexq_schema.work import Answered, Crashed, Errored, Reused
from alexq_worker.canary import Trial
from alexq_worker.lifecycle import Notifier
from alexq_worker.metrics import Metrics
from alexq_worker.pipeline.commit import CommitReport
from alexq_worker.pipeline.flow import with_followers
from alexq_worker.traces import Traces

log = logging.getLogger("alexq.batch")


class Reporting:
    """Belongs to the committer's thread."""

    def __init__(self, notifier: Notifier, metrics: Metrics, traces: Traces, trial: Trial) -> None:
        self._notifier = notifier
        self._trial = trial
        self._metrics = metrics
        self._traces = traces

    def committed(self, report: CommitReport) -> None:
        """Announce what is finished, one message for each producer; count and trace it; log each batch.

        An attempt that ended in an error of ours has a line of its own; inputs at fault share one.
        """
        claims = [job.outcome.claim for job in report.jobs]
        self._notifier.announce((claim.submission_id, claim.job_id) for claim in claims)
        self._metrics.committed(report)
        recorded = self._traces.record(report)
        self._trial.committed(report)
        for batch in report.batches:
            claimed = [item.claim for item in with_followers(batch.items)]
            with tracing.within(recorded.batches.get(batch.batch_id)):
                log.info(
                    "batch",
                    extra={
                        "batch_id": batch.batch_id,
                        "size": batch.size,
                        "shared": batch.shared,
                        "model": batch.model,
                        "decode_s": round(sum(batch.decode_s), 4),
                        "forward_s": round(batch.forward_s, 4),
                        "commit_s": round(report.commit_s, 4),
                        "fenced": report.fenced,
                        "in_flight": report.in_flight,
                        "job_ids": [claim.job_id for claim in claimed],
                        "submission_ids": list(dict.fromkeys(claim.submission_id for claim in claimed)),
                    },
                )
        outcomes = [job.outcome for job in report.jobs]
        if reused := [one.claim.job_id for one in outcomes if isinstance(one, Reused)]:
            log.info("answered from past results", extra={"job_ids": reused})
        if report.failed:
            failed = [one.claim.job_id for one in outcomes if not isinstance(one, Answered)]
            log.info("failed", extra={"codes": dict(report.failed), "job_ids": failed})
        for outcome, *_ in report.jobs:
            if isinstance(outcome, Errored | Crashed):
                with tracing.within(recorded.jobs.get(outcome.claim.job_id)):
                    log.warning(
                        "an attempt failed: %s",
                        outcome.detail,
                        extra={
                            "code": outcome.code,
                            "job_id": outcome.claim.job_id,
                            "submission_id": outcome.claim.submission_id,
                            "attempt": outcome.claim.attempt,
                        },
                    )
