"""Last stage: everything that is finished is committed in one transaction, then tasks resolve."""

from __future__ import annotations

import itertools
import queue
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

from alexq_schema.errors import DeadlineError
from alexq_schema.job import JobState
from alexq_schema.names import Lane
from alexq_schema.options import Options
from alexq_schema.work import Answered, Crashed, Errored, Failed, Late, Outcome, Succeeded
from alexq_worker.pipeline.flow import Ended, Flow, Forwarded, Item
from alexq_worker.pipeline.ports import Answer, JobTable, TopK


@dataclass(frozen=True, slots=True)
class BatchReport:
    """One batch that went through the model."""

    batch_id: int
    """Its number among this worker's."""
    size: int
    """Images."""
    limit: int
    """Images that it might have had."""
    decode_s: Sequence[float]
    """Of each image."""
    ready_s: Sequence[float]
    """How long each image waited, decoded, for the device."""
    forward_s: float
    model: str
    """``name/version`` of the version that it went through."""
    began_at: float
    """When the device took it, by the pipeline's clock."""
    items: Sequence[Item]
    """Whose images."""
    shared: int = 0
    """Jobs beside those, of the same images, that their forward answered."""


class JobReport(NamedTuple):
    """One job whose attempt is over."""

    outcome: Outcome
    lane: Lane
    total_s: float
    """Since it was accepted."""


@dataclass(frozen=True, slots=True)
class CommitReport:
    """One transaction: every batch, and every input at fault, that was finished by then."""

    batches: tuple[BatchReport, ...]
    jobs: Sequence[JobReport]
    states: Mapping[JobState, int]
    """How many of them are now in which state; ``queued`` are those to be tried again."""
    failed: Mapping[str, int]
    """How often each error code occurred: inputs at fault, and errors of ours."""
    fenced: int
    """Outcomes refused because the job was no longer this worker's."""
    commit_s: float
    in_flight: int
    """Jobs still in the pipeline."""
    ended_at: float
    """By the pipeline's clock."""


def code_of(outcome: Failed | Errored | Crashed | Late) -> str:
    """Return the code of the error that an attempt ended in."""
    return DeadlineError.code if isinstance(outcome, Late) else outcome.code


OnCommitted = Callable[[CommitReport], None]


class CommitStage:
    """Owned by one thread, which settles the tickets; None in ``finished`` ends it."""

    def __init__(
        self,
        flow: Flow,
        table: JobTable,
        finished: queue.Queue[Forwarded | Ended | None],
        on_committed: OnCommitted,
    ) -> None:
        self._flow = flow
        self._table = table
        self._finished = finished
        self._on_committed = on_committed
        self._batch_ids = itertools.count(1)

    def run(self) -> None:
        """Commit until the engine's thread says that nothing more comes."""
        is_last = False
        while not is_last:
            waiting = self._waiting()
            is_last = waiting[-1] is None
            if done := [part for part in waiting if part is not None]:
                self._commit(done)

    def _waiting(self) -> list[Forwarded | Ended | None]:
        """Return everything that is finished, after waiting for something."""
        waiting = [self._finished.get()]
        with suppress(queue.Empty):
            while waiting[-1] is not None:
                waiting.append(self._finished.get_nowait())
        return waiting

    def _commit(self, done: Sequence[Forwarded | Ended]) -> None:
        self._flow.sharing.close(item for part in done for item in part.items)
        leading = [pair for part in done for pair in self._outcomes(part)]
        pairs = [pair for item, outcome in leading for pair in _shared(item, outcome)]
        outcomes = [outcome for _, outcome in pairs]
        started = self._flow.clock()
        committed = self._flow.until_answered(
            "commit", lambda: self._table.commit(outcomes), even_draining=True
        )
        assert committed is not None
        ended = self._flow.clock()
        report = CommitReport(
            batches=tuple(
                BatchReport(
                    next(self._batch_ids),
                    len(part.items),
                    part.limit,
                    [item.decode_s for item in part.items],
                    [part.began_at - item.decoded_at for item in part.items],
                    part.forward_s,
                    part.resident.ref,
                    part.began_at,
                    part.items,
                    sum(len(item.followers) for item in part.items),
                )
                for part in done
                if isinstance(part, Forwarded)
            ),
            jobs=[
                JobReport(outcome, item.ticket.lane, item.claim.waited_s + ended - item.claimed_at)
                for item, outcome in pairs
            ],
            states=committed.states,
            failed=Counter(code_of(o) for o in outcomes if not isinstance(o, Answered)),
            fenced=committed.fenced,
            commit_s=ended - started,
            in_flight=self._flow.in_flight - len(pairs),
            ended_at=ended,
        )
        self._on_committed(report)
        for item, outcome in pairs:
            answer = committed.answers.get(item.claim.job_id)
            item.ticket.settle(answer, succeeded=isinstance(outcome, Answered))
        self._flow.let_go([item for item, _ in pairs])

    def _outcomes(self, part: Forwarded | Ended) -> Iterator[tuple[Item, Outcome]]:
        if isinstance(part, Ended):
            yield part.item, part.outcome
            return
        answers = _answers(part.top)
        version, size = part.resident, len(part.items)
        for item, (indices, probabilities) in zip(part.items, answers, strict=True):
            if item.options is not None:
                indices = likely(indices, probabilities, item.options)
                probabilities = probabilities[: len(indices)]
            predictions = version.predictions.write(indices, probabilities)
            yield (
                item,
                Succeeded(item.claim, predictions, version.model_id, item.decode_s, part.forward_s, size),
            )


def _shared(item: Item, outcome: Outcome) -> Iterator[tuple[Item, Outcome]]:
    """Yield an item and those that follow it, each with what became of it under its own claim."""
    yield item, outcome
    for follower in item.followers:
        if isinstance(outcome, Succeeded):
            yield follower, outcome._replace(claim=follower.claim, batch_size=None)
        else:
            yield follower, replace(outcome, claim=follower.claim)


def _answers(top: TopK | Sequence[Answer]) -> Iterable[Answer]:
    if isinstance(top, Sequence):
        return top
    return zip(top.indices.tolist(), top.probabilities.tolist(), strict=True)


def likely(indices: Sequence[int], probabilities: Sequence[float], options: Options) -> Sequence[int]:
    """Return the classes, best first, that are as likely as the job asks for."""
    return indices[: sum(one >= options.min_probability for one in probabilities)]
