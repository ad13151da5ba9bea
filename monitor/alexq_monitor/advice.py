"""What is wrong, in words, and what to do: numbers in, sentences out, the worst first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from alexq_monitor.words import count, duration, percent, plural, rate

STUCK_S: Final = 60.0
"""Time that jobs wait while nothing is done after which something is wrong."""
GROWTH: Final = 1.05
"""How many times more jobs come in than are done before the queue counts as growing."""
FEW: Final = 64
"""A backlog of one batch is no backlog, and fewer images are no share to speak of."""
BAD_SHARE: Final = 0.2


class Severity(IntEnum):
    """How bad it is."""

    BAD = 0
    """Work stands still, or nobody can tell."""
    WARNING = 1
    """Work goes on, but somebody should look."""
    FINE = 2


@dataclass(frozen=True, slots=True)
class Situation:
    """What is known of the system; rates are of the last minute or two."""

    database_error: str | None = None
    """Why nothing is known of jobs and workers."""
    broker_error: str | None = None
    waiting: int = 0
    unserved: tuple[tuple[str, int], ...] = ()
    """Queues that no worker alive serves, and how many jobs wait there."""
    oldest_s: float = 0.0
    """Age of the job that waits longest in the other queues."""
    running: int = 0
    in_per_s: float = 0.0
    out_per_s: float = 0.0
    workers: int = 0
    """Alive."""
    wanted_workers: int = 0
    """How many there should be (:mod:`alexq_monitor.scaling`)."""
    silent: tuple[str, ...] = ()
    """Workers (``host:pid``) that fell silent without a goodbye within the hour, and how long ago."""
    unhealthy: tuple[tuple[str, str], ...] = ()
    """Workers that ended because they could not get on, and why."""
    last_seen_s: float | None = None
    """Since any worker showed itself; None: none ever did."""
    is_quiet: bool = False
    """That is longer than workers leave between two signs, if not yet long enough to call them gone."""
    untrained: tuple[str, ...] = ()
    """Models whose labels mean nothing, which workers serve now."""
    dead: int = 0
    dead_code: str | None = None
    """What most of them are dead of."""
    dead_of_code: int = 0
    dead_looked_at: int = 0
    """The newest of them, among which those were counted."""
    succeeded: int = 0
    """In the last hour."""
    failed: int = 0
    is_empty: bool = False
    """There is no job at all."""


@dataclass(frozen=True, slots=True)
class Advice:
    """One thing to know, and what to do about it."""

    severity: Severity
    what: str
    todo: str = ""
    page: str = ""
    """The page that shows it: a tab's name."""


def drain_s(situation: Situation) -> float | None:
    """Return when the queue will be empty at the present rates, in seconds; None: never."""
    if not situation.waiting:
        return 0.0
    surplus = situation.out_per_s - situation.in_per_s
    return situation.waiting / surplus if surplus > 0 else None


def advise(situation: Situation) -> list[Advice]:
    """Return what to say, the worst first; never nothing."""
    said = [*_services(situation)]
    if situation.database_error is None:
        said += [*_workers(situation), *_queue(situation), *_results(situation)]
        if not said or situation.is_empty:
            said.append(_fine(situation))
    return sorted(said, key=lambda one: one.severity)


def _services(now: Situation) -> Iterator[Advice]:
    if now.database_error is not None:
        yield Advice(
            Severity.BAD,
            f"The database cannot be read: {now.database_error}.",
            "What was accepted is in it; nothing more is accepted until it answers. Start it, or check "
            "ALEXQ_DATABASE_URL with `alexq doctor`. This page goes on by itself.",
        )
    if now.broker_error is not None:
        yield Advice(
            Severity.BAD,
            f"The broker cannot be reached: {now.broker_error}.",
            "Accepted jobs are safe in SQL and go out when it is back. Start Redis, or check "
            "ALEXQ_BROKER_URL with `alexq doctor`.",
        )


def _workers(now: Situation) -> Iterator[Advice]:
    if not now.workers:
        jobs = plural(now.waiting + now.running, "job")
        waits = "waits" if now.waiting + now.running == 1 else "wait"
        and_jobs = f", and {jobs} {waits}" if now.waiting + now.running else ""
        since = (
            "No worker has ever reported"
            if now.last_seen_s is None
            else f"No worker has reported for {duration(now.last_seen_s)}"
        )
        yield Advice(
            Severity.BAD if now.waiting + now.running else Severity.WARNING,
            f"{since}{and_jobs}.",
            "Start one with `alexq worker --device auto`, with the same ALEXQ_DATABASE_URL and "
            "ALEXQ_BROKER_URL as here.",
        )
    for queue, jobs_there in now.unserved[:3]:
        if queue or now.workers:
            yield _unserved(queue, jobs_there)
    if len(now.unserved) > 3:
        yield Advice(Severity.BAD, f"{len(now.unserved) - 3} more queues have jobs and no worker.")
    if now.workers and now.is_quiet:
        yield Advice(
            Severity.WARNING,
            f"No worker has shown itself for {duration(now.last_seen_s)}.",
            "While they live they do every few seconds: look at their hosts, and whether those reach the "
            "database.",
        )
    if now.silent:
        yield Advice(
            Severity.WARNING,
            f"{plural(len(now.silent), 'worker')} fell silent without a goodbye: {_names(now.silent)}.",
            "Jobs that they held go back to the queue by themselves. Look whether the process or its host "
            "was killed, and start it again where nothing else has.",
        )
    for name, why in now.unhealthy[:3]:
        yield Advice(
            Severity.WARNING,
            f"The worker {name} could not get on and ended: {why}.",
            "Its jobs went back to the queue. Its log says more.",
        )
    if now.untrained:
        yield Advice(
            Severity.WARNING,
            f"{_names(now.untrained)} is served untrained: its labels mean nothing.",
            "Bring trained weights: `alexq models pull`, then `alexq models activate NAME/VERSION`, and "
            "start the workers again.",
            "models",
        )


def _unserved(queue: str, waiting: int) -> Advice:
    jobs, waits = plural(waiting, "job"), "waits" if waiting == 1 else "wait"
    if not queue:
        return Advice(
            Severity.BAD,
            f"{jobs} {waits} in the default queue, and every worker serves another.",
            "Start one for it: `alexq worker`, without --queue and ALEXQ_QUEUE.",
        )
    return Advice(
        Severity.BAD,
        f"{jobs} {waits} in the queue {queue}, which no worker serves.",
        f"Start one with `alexq worker --queue {queue}`, with the same ALEXQ_DATABASE_URL and "
        "ALEXQ_BROKER_URL as here.",
    )


def _queue(now: Situation) -> Iterator[Advice]:
    waiting = now.waiting - sum(jobs for _, jobs in now.unserved)
    if not now.workers or not waiting:
        return
    jobs = plural(waiting, "job")
    if now.out_per_s == 0 and now.oldest_s > STUCK_S:
        yield Advice(
            Severity.BAD,
            f"{jobs} {'waits' if waiting == 1 else 'wait'}, the oldest for {duration(now.oldest_s)}, and "
            f"nothing was done in the last minute although {plural(now.workers, 'worker')} reported.",
            "Run `alexq doctor`, and look at the workers' logs.",
        )
    elif waiting > FEW and now.in_per_s > now.out_per_s * GROWTH:
        missing = now.wanted_workers - now.workers
        yield Advice(
            Severity.WARNING,
            f"The queue grows faster than it drains: {rate(now.in_per_s)} jobs/s come in, "
            f"{rate(now.out_per_s)} are done, {jobs} wait.",
            f"Add {plural(missing, 'worker')} like those there are."
            if missing > 0
            else "If it goes on, add a worker.",
        )


def _results(now: Situation) -> Iterator[Advice]:
    if now.dead:
        jobs = plural(now.dead, "job")
        of = f" of {now.dead_code}" if now.dead_of_code == now.dead and now.dead_code else ""
        newest = "them" if now.dead_looked_at == now.dead else f"the newest {count(now.dead_looked_at)}"
        most = (
            f", {count(now.dead_of_code)} of {newest} of {now.dead_code}" if not of and now.dead_code else ""
        )
        yield Advice(
            Severity.WARNING,
            f"{jobs} {'is' if now.dead == 1 else 'are'} dead{of}{most}.",
            "See Dead jobs: mend the cause there, then queue them again.",
            "dead",
        )
    done = now.succeeded + now.failed
    if done >= FEW and now.failed > BAD_SHARE * done:
        yield Advice(
            Severity.WARNING,
            f"{percent(now.failed / done)} of the images of the last hour have no result "
            f"({count(now.failed)} of {count(done)}).",
            "See Results, those that failed: each says what is wrong with its image.",
            "results",
        )


def _fine(now: Situation) -> Advice:
    if now.is_empty:
        return Advice(
            Severity.FINE,
            "Nothing has been submitted yet.",
            "Hand in photographs with `alexq submit PATH…`, or from a service with alexq.Client.",
        )
    left = drain_s(now)
    if not now.waiting:
        return Advice(Severity.FINE, "All is well: nothing waits.")
    until = "" if left is None else f", and will be empty in about {duration(left)}"
    return Advice(
        Severity.FINE, f"All is well: work is flowing. The queue holds {count(now.waiting)}{until}."
    )


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
