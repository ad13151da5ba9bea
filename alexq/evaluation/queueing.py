"""Labelled pictures through the queue: handed in by the hundred, two hundreds ahead, each answer checked."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final
from uuid import UUID

from alexq.evaluation.measures import Answer
from alexq_schema.errors import DatasetError, ModelNotReadyError, PinnedModelError
from alexq_schema.job import Job
from alexq_schema.labelled import Example
from alexq_schema.names import Lane

if TYPE_CHECKING:
    from alexq_producer import Producer, Submission

_TOGETHER: Final = 256
_AHEAD: Final = 2
_TIMEOUT_S: Final = 3600.0
"""For a few hundred pictures, behind whatever else waits."""


def truths(examples: Sequence[Example], labels: Sequence[str], *, by_order: bool) -> dict[str, int]:
    """Return the index of the true label of each picture's path.

    Args:
        labels: the model's.
        by_order: the data's labels, sorted, are the model's in their order, whatever they are called:
            ImageNet's folders are called by synsets.

    Raises:
        DatasetError: a label is none of the model's, or the numbers differ.
    """
    found = sorted({example.label for example in examples})
    if by_order:
        if len(found) != len(labels):
            raise DatasetError(
                f"the data has {len(found)} labels and the model {len(labels)}: --by-order needs as many"
            )
        index = {label: number for number, label in enumerate(found)}
    else:
        index = {label: number for number, label in reversed(list(enumerate(labels)))}
        unknown = [label for label in found if label not in index]
        if unknown:
            hint = (
                "; with --by-order the data's labels, sorted, are the model's"
                if len(found) == len(labels)
                else ""
            )
            raise DatasetError(
                f"{len(unknown)} of the data's labels are none of the model's, such as {unknown[0]!r} "
                f"(the model's: {', '.join(labels[:5])} …){hint}"
            )
        twice = {label for label in found if labels.count(label) > 1}
        if twice:
            raise DatasetError(
                f"the model has the label {min(twice)!r} more than once: name the data --by-order"
            )
    return {str(example.path): index[example.label] for example in examples}


@dataclass(frozen=True)
class Answers:
    """What came back, in the order of the examples, and how fast."""

    answers: list[Answer]
    images_per_s: float
    precision: str


def ask(producer: Producer, ref: str, truth: dict[str, int], told: Callable[[], None]) -> Answers:
    """Hand in every picture of ``truth`` and return what workers say of it.

    Args:
        ref: the version that answers, whichever is active.
        told: is called for each answer.

    Raises:
        ModelNotReadyError: no worker runs, or they do not have this version; what waits is cancelled.
        WaitTimeoutError, DatabaseUnavailableError: as :meth:`Submission.results`.
    """
    if not producer.workers_alive():
        raise ModelNotReadyError("no worker is running: start one with `alexq up` or `alexq worker`")
    answers: dict[str, Answer] = {}
    precision = ""
    # One alone first: if workers do not have it, nothing else was handed in; else it is in memory by then.
    first, *rest = truth
    for paths in filter(None, ([first], rest)):
        began = time.monotonic()
        with closing(_results(producer, paths, ref)) as results:
            for path, job in results:
                _require_had(job, ref)
                if job.model is not None:
                    precision = job.model.precision
                answers[path] = _answer(path, job, truth[path])
                told()
        images_per_s = len(paths) / (time.monotonic() - began)
    return Answers([answers[path] for path in truth], images_per_s, precision)


def _results(producer: Producer, paths: Sequence[str], ref: str) -> Generator[tuple[str, Job]]:
    """Yield each path with its finished job."""
    handed_in: deque[Submission] = deque()
    path_of: dict[UUID | None, str] = {}
    remaining = iter(paths)
    try:
        while piece := list(islice(remaining, _TOGETHER)):
            submission = producer.submit(piece, rejected="skip", lane=Lane.BULK, model=ref)
            refused = {rejection.source: rejection.as_job() for rejection in submission.rejected}
            yield from refused.items()
            accepted = [path for path in piece if path not in refused]
            path_of |= dict(zip(submission.job_ids, accepted, strict=True))
            handed_in.append(submission)
            if len(handed_in) > _AHEAD:
                yield from _finished(handed_in, path_of)
        while handed_in:
            yield from _finished(handed_in, path_of)
    finally:
        for submission in handed_in:  # only where it ends early
            producer.cancel(submission.job_ids)


def _finished(handed_in: deque[Submission], path_of: dict[UUID | None, str]) -> Iterator[tuple[str, Job]]:
    for job in handed_in[0].results(_TIMEOUT_S):
        yield path_of.pop(job.job_id), job
    handed_in.popleft()


def _require_had(job: Job, ref: str) -> None:
    if job.error is not None and job.error.code == PinnedModelError.code:
        raise ModelNotReadyError(
            f"a worker does not have {ref} ({job.error.detail}): bring it to every worker's models folder"
        )


def _answer(path: str, job: Job, truth: int) -> Answer:
    return Answer(
        source=path,
        truth=truth,
        ranked=[prediction.index for prediction in job.predictions],
        probability=job.probability or 0.0,
        error=None if job.predictions else (job.error.code if job.error else str(job.state)),
    )
