"""The judge: what was accepted, by the submitters' logs, against what the database holds, by plain SQL.

A job is *lost* when it was accepted (or committed by a call that never returned) and has not ended;
*duplicated* when the audit saw it end twice; *wrong* when its row contradicts itself or its predictions
are not the reference's. Rows that no call can account for count as wrong too.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from benchmarks.chaos import audit
from benchmarks.chaos.audit import TERMINAL, Change, as_uuid
from benchmarks.chaos.reference import Answers

COLUMNS = (
    "id", "submission_id", "position", "image_key", "state", "attempt", "errors", "crashes", "worker_id",
    "claimed_at", "finished_at", "model_id", "label", "probability", "predictions", "error_code",
)  # fmt: skip


@dataclass
class Told:
    """What the submitters wrote down."""

    accepted: dict[UUID, int] = field(default_factory=dict)
    """Image number by job id."""
    submissions: set[UUID] = field(default_factory=set)
    unanswered: list[tuple[int, ...]] = field(default_factory=list)
    """Images of calls that raised or never returned: their rows may be there, all or none."""
    accepted_at: list[tuple[float, float]] = field(default_factory=list)
    """Unix time and duration of every call that was accepted."""
    refused: Counter[str] = field(default_factory=Counter)
    """Calls that raised, by error code."""
    is_complete: bool = True


@dataclass
class Verdict:
    """What became of one scenario's jobs."""

    jobs: int = 0
    lost: int = 0
    duplicated: int = 0
    wrong: int = 0
    unconfirmed: int = 0
    """Rows of calls that the submitter could not confirm; they must end like any other."""
    states: dict[str, int] = field(default_factory=dict)
    attempts_max: int = 0
    again: int = 0
    """Jobs that were claimed more than once."""
    errors: int = 0
    crashes: int = 0
    republished: int = 0
    """Messages that the sweeper sent, counted in jobs."""
    faults: list[str] = field(default_factory=list)
    """The first few things that are wrong, in words."""


def read_logs(logs: list[Path]) -> Told:
    """Return what these submitters wrote down."""
    told = Told()
    for log in logs:
        tries: dict[int, tuple[int, ...]] = {}
        is_complete = False
        for line in log.read_text().splitlines() if log.exists() else []:
            record = json.loads(line)
            if "try" in record:
                tries[record["try"]] = tuple(record["images"])
            elif "job" in record:
                told.accepted[UUID(record["job"])] = record["image"]
                told.submissions.add(UUID(record["submission"]))
                if tries.pop(record["call"], None) is not None:
                    told.accepted_at.append((record["at"], record["took_s"]))
            elif "refused" in record:
                told.refused[record["code"]] += 1
            is_complete = is_complete or "done" in record
        told.unanswered += tries.values()
        told.is_complete = told.is_complete and is_complete
    return told


class Checker:
    """Watches one scenario's database."""

    def __init__(self, database_url: str, answers: Answers) -> None:
        self._engine = audit.engine(database_url)
        self._answers = answers

    def counts(self) -> dict[str, int] | None:
        """Return how many jobs are in each state, or None while the database does not answer."""
        try:
            with self._engine.connect() as connection:
                rows = connection.execute(text("SELECT state, count(*) FROM jobs GROUP BY state"))
                return {row[0]: row[1] for row in rows}
        except SQLAlchemyError:
            return None

    def job_ids(self, state: str) -> set[UUID]:
        """Return the jobs in ``state`` now."""
        with self._engine.connect() as connection:
            rows = connection.execute(text("SELECT id FROM jobs WHERE state = :state"), {"state": state})
            return {as_uuid(row[0]) for row in rows}

    def held_by(self, pid: int) -> set[UUID]:
        """Return the jobs that the worker process ``pid`` holds now."""
        with self._engine.connect() as connection:
            statement = (
                "SELECT jobs.id FROM jobs JOIN workers ON workers.id = jobs.worker_id "
                "WHERE jobs.state = 'running' AND workers.pid = :pid"
            )
            return {as_uuid(row[0]) for row in connection.execute(text(statement), {"pid": pid})}

    def worker_ids(self) -> dict[int, UUID]:
        """Return the worker's id by process id."""
        with self._engine.connect() as connection:
            rows = connection.execute(text("SELECT pid, id FROM workers")).all()
            return {row[0]: as_uuid(row[1]) for row in rows}

    def changes(self) -> list[Change]:
        """Return the audit."""
        with self._engine.connect() as connection:
            return audit.read(connection)

    def judge(self, told: Told) -> Verdict:
        """Compare everything with everything."""
        with self._engine.connect() as connection:
            statement = f"SELECT {', '.join(COLUMNS)} FROM jobs"
            rows = [dict(row) for row in connection.execute(text(statement)).mappings()]
        changes = self.changes()
        verdict = Verdict(jobs=len(told.accepted))
        by_id = {as_uuid(row["id"]): row for row in rows}
        verdict.states = dict(Counter(row["state"] for row in rows))
        missing = [job_id for job_id in told.accepted if job_id not in by_id]
        unfinished = [job_id for job_id, row in by_id.items() if row["state"] not in TERMINAL]
        verdict.lost = len(missing) + len(unfinished)
        verdict.faults += [f"accepted job {job_id} is not in the database" for job_id in missing[:3]]
        verdict.faults += [f"job {job_id} is still {by_id[job_id]['state']}" for job_id in unfinished[:3]]
        twice = audit.duplicated(changes)
        verdict.duplicated = len(twice)
        verdict.faults += [f"job {job_id} ended twice" for job_id in sorted(twice)[:3]]
        self._judge_rows(verdict, told, by_id)
        self._judge_unconfirmed(verdict, told, by_id)
        claims = Counter(c.job_id for c in changes if c.kind == "state" and c.new == "running")
        verdict.again = sum(count > 1 for count in claims.values())
        verdict.attempts_max = max((row["attempt"] for row in rows), default=0)
        verdict.errors = sum(row["errors"] for row in rows)
        verdict.crashes = sum(row["crashes"] for row in rows)
        verdict.republished = sum(change.kind == "published" for change in changes)
        return verdict

    def _judge_rows(self, verdict: Verdict, told: Told, by_id: dict[UUID, dict[str, Any]]) -> None:
        for job_id, row in by_id.items():
            number = self._answers.number_of.get(row["image_key"])
            if number is None or told.accepted.get(job_id, number) != number:
                fault: str | None = "it names another image than was submitted"
            else:
                fault = self._fault(row, number)
            if fault is not None:
                verdict.wrong += 1
                if len(verdict.faults) < 8:
                    verdict.faults.append(f"job {job_id} ({row['state']}): {fault}")

    def _fault(self, row: dict[str, Any], number: int) -> str | None:
        """Return how this row contradicts itself or the reference, or None."""
        has_result = [row[name] is not None for name in ("predictions", "label", "probability", "model_id")]
        if row["state"] != "succeeded":
            if any(has_result):
                return "it has a result"
            if row["state"] == "running" and row["worker_id"] is None:
                return "nobody runs it"
            return "it has no error" if row["state"] in ("failed", "dead") and not row["error_code"] else None
        if not all(has_result) or row["finished_at"] is None or row["attempt"] < 1:
            return "its result is incomplete"
        if row["error_code"] is not None:
            return "it has an error too"
        stored = row["predictions"]
        predictions = json.loads(stored) if isinstance(stored, str) else stored
        if predictions[0]["label"] != row["label"] or predictions[0]["probability"] != row["probability"]:
            return "label and predictions differ"
        return self._answers.fault(number, predictions)

    def _judge_unconfirmed(self, verdict: Verdict, told: Told, by_id: dict[UUID, dict[str, Any]]) -> None:
        """Account for rows that no answer named: each submission must be exactly one unanswered call."""
        groups: defaultdict[UUID | None, list[dict[str, Any]]] = defaultdict(list)
        for job_id, row in by_id.items():
            if job_id not in told.accepted:
                groups[as_uuid(row["submission_id"]) if row["submission_id"] else None].append(row)
        unanswered = Counter(told.unanswered)
        for submission_id, rows in groups.items():
            verdict.unconfirmed += len(rows)
            ordered = sorted(rows, key=lambda row: int(row["position"]))
            images = tuple(self._answers.number_of.get(row["image_key"], -1) for row in ordered)
            if submission_id is None or submission_id in told.submissions or not unanswered[images]:
                verdict.wrong += len(rows)
                verdict.faults.append(f"{len(rows)} rows of submission {submission_id} have no call")
            unanswered[images] -= 1
