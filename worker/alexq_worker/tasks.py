"""The two Celery tasks. Each hands its ids to the pipeline and waits for their fate.

Messages that this worker leaves behind while it stops are rejected back to the queue. SystemExit and
MemoryError would leak a slot of Celery's thread pool and lose the message, so they requeue it too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any, TypeVar
from uuid import UUID

from celery import Celery, Task, current_task
from celery.exceptions import Ignore, Reject

from alexq_schema.errors import MessageError, RejectedError
from alexq_schema.messages import ClassifyImage, ClassifyJobs
from alexq_schema.names import TASK_CLASSIFY_IMAGE, TASK_CLASSIFY_JOBS
from alexq_worker.door import Door
from alexq_worker.pipeline.pipeline import Pipeline
from alexq_worker.pipeline.ticket import Summary
from alexq_worker.refusals import Refusals

WAIT_S = 3600.0
"""How long a task waits for the pipeline before its message goes back."""

Answer = TypeVar("Answer")


def register(app: Celery, pipeline: Pipeline, door: Door, refusals: Refusals) -> None:
    """Add the tasks to ``app``."""
    never_loses_its_message = partial(_never_loses_its_message, refusals)

    def settled(job_ids: Sequence[UUID]) -> Summary:
        summary = pipeline.submit(job_ids).result(WAIT_S)
        if summary.given_back:
            raise Reject("this worker is stopping", requeue=True)
        return summary

    def answered(what: str, call: Callable[[], Answer]) -> Answer:
        answer = pipeline.until_answered(what, call)
        if answer is None:
            raise Reject("this worker is stopping", requeue=True)
        return answer

    @app.task(name=TASK_CLASSIFY_JOBS, ignore_result=True, throws=(RejectedError,))  # type: ignore[untyped-decorator]
    @never_loses_its_message
    def classify_jobs(**body: Any) -> dict[str, int]:
        """Look at these jobs; the results are in SQL."""
        message = ClassifyJobs.parse(body)
        summary = settled(message.job_ids)
        return {"jobs": len(message.job_ids), "claimed": summary.claimed}

    @app.task(name=TASK_CLASSIFY_IMAGE, bind=True, throws=(RejectedError,))  # type: ignore[untyped-decorator]
    @never_loses_its_message
    def classify_image(self: Task, image_base64: str | None = None, **body: Any) -> dict[str, Any]:
        """Classify the image of this message and return the job object."""
        message = ClassifyImage.parse({"image_base64": image_base64, **body})
        task_id = _job_id(self.request.id)
        job_id = answered("a message's image", lambda: door.accept(task_id, message))
        job = settled([job_id]).answers.get(job_id) or answered("a result", lambda: door.job(job_id))
        if not (job.state != "rejected" and job.state.is_terminal):
            raise Ignore  # another worker's, or to be tried again: that one will answer
        return job.model_dump(mode="json")


def _job_id(task_id: str) -> UUID:
    try:
        return UUID(task_id)
    except ValueError as error:
        raise MessageError(
            f"task id {task_id!r} is not a UUID; it becomes the job id, so leave it to Celery"
        ) from error


def _never_loses_its_message(refusals: Refusals, task: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(task)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return task(*args, **kwargs)
        except RejectedError as error:
            request = current_task.request
            refusals.note(str(current_task.name), str(request.id), error.code, error.detail)
            raise
        except (MemoryError, SystemExit, TimeoutError) as error:
            raise Reject(f"{type(error).__name__} in the task", requeue=True) from error

    return guarded
