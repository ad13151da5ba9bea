"""The two Celery tasks. Each hands its ids to the pipeline; the pool runs it when their fate is known.

Messages that this worker leaves behind while it stops are rejected back to the queue. SystemExit and
MemoryError would lose the message, so they requeue it too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar
from uuid import UUID

from celery import Celery
from celery.exceptions import Ignore, Reject

from alexq_schema.errors import MessageError, RejectedError
from alexq_schema.messages import ClassifyImage, ClassifyJobs
from alexq_schema.names import TASK_CLASSIFY_IMAGE, TASK_CLASSIFY_JOBS, lane_of
from alexq_worker.door import Door
from alexq_worker.pipeline.pipeline import Pipeline
from alexq_worker.pipeline.ticket import Summary
from alexq_worker.pool import PipelineTask
from alexq_worker.refusals import Refusals

Answer = TypeVar("Answer")


def register(app: Celery, pipeline: Pipeline, door: Door, refusals: Refusals) -> None:
    """Add the tasks to ``app``."""
    app.register_task(ClassifyJobsTask(pipeline, refusals))
    app.register_task(ClassifyImageTask(pipeline, door, refusals))


class _OurTask(PipelineTask):
    abstract = True
    throws = (RejectedError,)

    def __init__(self, pipeline: Pipeline, refusals: Refusals) -> None:
        self._pipeline = pipeline
        self._refusals = refusals

    @contextmanager
    def _never_losing_the_message(self) -> Iterator[None]:
        try:
            yield
        except RejectedError as error:
            self._refusals.note(str(self.name), str(self.request.id), error.code, error.detail)
            raise
        except (MemoryError, SystemExit, TimeoutError) as error:
            raise Reject(f"{type(error).__name__} in the task", requeue=True) from error

    def _settled(self) -> Summary:
        summary: Summary = self.outcome
        if summary.given_back:
            raise Reject("this worker is stopping", requeue=True)
        return summary


class ClassifyJobsTask(_OurTask):
    """Look at these jobs; the results are in SQL."""

    name = TASK_CLASSIFY_JOBS
    ignore_result = True

    def begin(self, request: Mapping[str, Any]) -> Future[Summary]:
        """Hand the message's ids to the pipeline."""
        lane = lane_of(request["delivery_info"]["routing_key"])
        message = ClassifyJobs.parse(request["kwargs"])
        return self._pipeline.submit(message.job_ids, lane)

    def run(self, **body: Any) -> dict[str, int]:
        """Say how many were still to be done, and how many have a result: what Flower shows."""
        with self._never_losing_the_message():
            summary = self._settled()
            jobs = len(body.get("job_ids", ()))
            return {"jobs": jobs, "claimed": summary.claimed, "succeeded": summary.succeeded}


class ClassifyImageTask(_OurTask):
    """Classify the image of this message and return the job object."""

    name = TASK_CLASSIFY_IMAGE

    def __init__(self, pipeline: Pipeline, door: Door, refusals: Refusals) -> None:
        super().__init__(pipeline, refusals)
        self._door = door

    def begin(self, request: Mapping[str, Any]) -> Future[Summary]:
        """Hand the message to the door, which makes a job of it."""
        return self._door.submit(_job_id(request["id"]), ClassifyImage.parse(request["kwargs"]))

    def run(self, **_: Any) -> dict[str, Any]:
        """Return the job."""
        with self._never_losing_the_message():
            job_id = _job_id(self.request.id)
            job = self._settled().answers.get(job_id) or self._answered(lambda: self._door.job(job_id))
            if not (job.state != "rejected" and job.state.is_terminal):
                raise Ignore  # another worker's, or to be tried again: that one will answer
            return job.model_dump(mode="json")

    def _answered(self, call: Callable[[], Answer]) -> Answer:
        answer = self._pipeline.until_answered("a result", call)
        if answer is None:
            raise Reject("this worker is stopping", requeue=True)
        return answer


def _job_id(task_id: str) -> UUID:
    try:
        return UUID(task_id)
    except ValueError as error:
        raise MessageError(
            f"task id {task_id!r} is not a UUID; it becomes the job id, so leave it to Celery"
        ) from error
