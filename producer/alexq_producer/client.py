"""The HTTP client: for services that share neither database nor Redis with alexq."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack
from uuid import UUID

import httpx2
import stamina

from alexq_producer import operations, wire
from alexq_producer.operations import Accepted, Operation, Pending, ServedModel, SubmissionStatus
from alexq_producer.packing import Packer, is_one
from alexq_producer.wire import Call, Retries, Timeouts
from alexq_schema import tracing
from alexq_schema.job import Job, JobState
from alexq_schema.names import Lane
from alexq_schema.options import OptionFields

T = TypeVar("T")


class Client:
    """Submits images to a gateway and reads results. Threads may share one; close it, or use ``with``.

    Connection errors, 408, 429, 5xx, and 409 for a key that is in use, are retried after growing, jittered
    pauses, or after ``Retry-After``. Every submission carries an idempotency key, so that a repetition
    never makes a second job. Errors are of the classes in :mod:`alexq_schema.errors`.
    """

    def __init__(
        self,
        server: str | None = None,
        *,
        api_key: str | None = None,
        timeouts: Timeouts | None = None,
        retries: Retries | None = None,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        """Prepare; connections are made on first use.

        Args:
            server: the gateway's address; by default ``ALEXQ_SERVER``, else the embedded stack's.
            api_key: by default ``ALEXQ_API_KEY``.
            transport: what carries requests instead of the network: see :mod:`alexq.testing`.

        Raises:
            StackNotRunningError: no address was given and no embedded stack runs.
        """
        self.server, key = wire.server_and_key(server, api_key)
        self._timeouts = timeouts or Timeouts()
        self._retries = retries or Retries()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx2.Client(base_url=self.server, headers=headers, transport=transport)

    def classify(
        self,
        image: Any,
        timeout_s: float = 60.0,
        *,
        model: str | None = None,
        idempotency_key: str | None = None,
        **options: Unpack[OptionFields],
    ) -> Job:
        """Submit one image and return its finished job.

        Args:
            image: encoded bytes, a path, a binary file, a Pillow image, a NumPy array of uint8, or an
                ``http(s)://`` URL, which the gateway fetches where its settings allow the host.
            model: ``name/version`` that it must be done with; by default whichever is active.
            options: as for :meth:`submit`.

        Raises:
            WaitTimeoutError: it is unfinished after ``timeout_s`` seconds; it goes on.
            ImageError: the image was refused.
            UnavailableError: the gateway, or what is behind it, does not answer.
        """
        with tracing.span("classify", "client"):
            return self._run(operations.classify(image, timeout_s, model, options, idempotency_key))

    def submit(
        self,
        images: Any | Iterable[Any],
        *,
        rejected: Literal["raise", "skip"] = "raise",
        deadline_s: float | None = None,
        lane: Lane | None = None,
        webhook: UUID | None = None,
        model: str | None = None,
        idempotency_key: str | None = None,
        **options: Unpack[OptionFields],
    ) -> RemoteSubmission:
        """Hand in one image or many; returns when they are accepted.

        Args:
            images: an image, as for :meth:`classify`, or an iterable of those.
            rejected: what a refused image does: ``raise`` for the whole call, or ``skip`` it and list it.
            deadline_s: seconds from now after which a job that was not begun expires.
            lane: by default ``interactive`` for one image and ``bulk`` for many.
            webhook: one of the gateway's webhooks, which is told when all jobs have ended.
            model: ``name/version`` that they must be done with; by default whichever is active.
            options: ``crops``, ``top_k``, ``min_probability``, ``temperature``, ``reuse``: see
                :class:`alexq_schema.options.Options`.
            idempotency_key: for a repetition by another process; by default one of this call's own.

        Raises:
            ImageError: an image was refused; names it.
            UsageError: there was no image.
            WebhookNotFoundError: there is no such webhook.
            PinnedModelError: there is no such model version.
            UnavailableError: the gateway, or what is behind it, does not answer.
        """
        lane = lane or (Lane.INTERACTIVE if is_one(images) else Lane.BULK)
        with tracing.span("submit", "client"), Packer(skips_rejected=rejected == "skip") as packer:
            for image in [images] if is_one(images) else images:
                packer.add(image)
            accepted = self._run(
                operations.submit(
                    packer,
                    rejected=rejected,
                    deadline_s=deadline_s,
                    lane=lane,
                    webhook=webhook,
                    model=model,
                    options=options,
                    idempotency_key=idempotency_key,
                )
            )
        return RemoteSubmission(self, accepted)

    def submission(self, submission_id: UUID) -> RemoteSubmission:
        """Return an earlier submission, to wait for it or read its results.

        Raises:
            JobNotFoundError: there is no such submission.
        """
        return RemoteSubmission(self, self._run(operations.submission(submission_id)))

    def submission_of_job(self, job_id: UUID) -> RemoteSubmission:
        """Return one job as something to wait on.

        Raises:
            JobNotFoundError: there is no such job.
        """
        return RemoteSubmission(self, self._run(operations.submission_of_job(job_id)))

    def job(self, job_id: UUID) -> Job:
        """Return a job as it stands now.

        Raises:
            JobNotFoundError: there is no such job.
        """
        return self._run(operations.show(job_id))

    def jobs(
        self,
        *,
        state: JobState | None = None,
        label: str | None = None,
        submission_id: UUID | None = None,
        limit: int | None = 50,
    ) -> list[Job]:
        """Return jobs, newest first, that match every filter given; all of them where ``limit`` is None."""
        return self._run(operations.list_jobs(state, label, submission_id, limit))

    def cancel(self, job_id: UUID) -> Job:
        """Cancel a job and return it.

        Raises:
            JobNotFoundError: there is no such job.
            JobStateError: it has ended in another way.
        """
        return self._run(operations.cancel(job_id))

    def redrive(self, job_id: UUID) -> Job:
        """Queue a dead job again and return it.

        Raises:
            JobNotFoundError: there is no such job.
            JobStateError: it is not dead.
        """
        return self._run(operations.redrive(job_id))

    def models(self) -> list[ServedModel]:
        """Return the model versions that workers serve or have served."""
        return self._run(operations.list_models())

    def close(self) -> None:
        """Close every connection; submitted jobs go on."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, operation: Operation[T]) -> T:
        try:
            call = next(operation)
            while True:
                call = operation.send(self._send(call))
        except StopIteration as end:
            result: T = end.value
            return result

    def _send(self, call: Call) -> bytes:
        with wire.translated(self.server):
            for attempt in self._attempts():
                with attempt:
                    response = self._http.send(self._request(call))
                    wire.check(response)
        return response.content

    def _stream(self, pending: Pending, call: Call) -> Iterator[Job]:
        with wire.translated(self.server):
            for attempt in self._attempts():
                with attempt:
                    response = self._http.send(self._request(call), stream=True)
                    try:
                        if response.status_code >= 400:
                            response.read()
                        wire.check(response)
                        for line in response.iter_lines():
                            if (job := pending.parse(line)) is not None:
                                yield job
                    finally:
                        response.close()

    def _attempts(self) -> Any:
        return stamina.retry_context(
            on=wire.backoff, attempts=self._retries.attempts, timeout=self._retries.total_s
        )

    def _request(self, call: Call) -> httpx2.Request:
        return self._http.build_request(
            call.method,
            call.path,
            params=call.params,
            headers=call.all_headers() | tracing.headers(),
            content=None if call.body is None else call.pieces(),
            timeout=self._timeouts.of(call),
        )


class RemoteSubmission:
    """The jobs of one submission; ``job_ids`` are in the order of the images that were accepted."""

    def __init__(self, client: Client, accepted: Accepted) -> None:
        self._client = client
        self._accepted = accepted
        self.id = accepted.submission_id
        """None where every image was refused."""
        self.job_ids = accepted.job_ids
        self.rejected = accepted.rejected
        """Images that were refused, when ``submit`` was told to skip them, in the shape of jobs."""

    def __len__(self) -> int:
        return len(self.job_ids)

    def results(self, timeout_s: float | None = None) -> Iterator[Job]:
        """Yield each job once as it reaches a terminal state, in completion order.

        Raises:
            WaitTimeoutError: some are unfinished after ``timeout_s`` seconds; they go on.
            UnavailableError: the gateway, or what is behind it, does not answer.
        """
        pending = Pending(self._accepted, timeout_s)
        while (call := pending.next_stream()) is not None:
            yield from self._client._stream(pending, call)

    def wait(self, timeout_s: float | None = None) -> list[Job]:
        """Return every job, finished, in the order submitted; raises as :meth:`results`."""
        with tracing.span("wait", "client", {"alexq.submission.id": str(self.id)}):
            return operations.in_order(list(self.results(timeout_s)), self._accepted)

    def progress(self) -> SubmissionStatus:
        """Return how many jobs are in each state, the rate and the estimated finish.

        Raises:
            JobNotFoundError: there is no such submission: every image was refused, or it was deleted.
        """
        return self._client._run(operations.status(self._accepted.known_id()))

    def cancel(self) -> SubmissionStatus:
        """Cancel what is unfinished, and return how the submission stands; raises as :meth:`progress`."""
        return self._client._run(operations.cancel_submission(self._accepted.known_id()))
