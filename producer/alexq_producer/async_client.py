"""The HTTP client for asyncio (and trio): as :mod:`alexq_producer.client`, with ``await``."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack
from uuid import UUID

import anyio
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


class AsyncClient:
    """Submits images to a gateway and reads results: :class:`alexq_producer.client.Client` with ``await``."""

    def __init__(
        self,
        server: str | None = None,
        *,
        api_key: str | None = None,
        timeouts: Timeouts | None = None,
        retries: Retries | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        """Prepare; arguments and errors as for :class:`alexq_producer.client.Client`."""
        self.server, key = wire.server_and_key(server, api_key)
        self._timeouts = timeouts or Timeouts()
        self._retries = retries or Retries()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx2.AsyncClient(base_url=self.server, headers=headers, transport=transport)

    async def classify(
        self,
        image: Any,
        timeout_s: float = 60.0,
        *,
        model: str | None = None,
        idempotency_key: str | None = None,
        **options: Unpack[OptionFields],
    ) -> Job:
        """Submit one image and return its finished job (see :meth:`Client.classify`)."""
        with tracing.span("classify", "client"):
            return await self._run(operations.classify(image, timeout_s, model, options, idempotency_key))

    async def submit(
        self,
        images: Any | Iterable[Any] | AsyncIterable[Any],
        *,
        rejected: Literal["raise", "skip"] = "raise",
        deadline_s: float | None = None,
        lane: Lane | None = None,
        webhook: UUID | None = None,
        model: str | None = None,
        idempotency_key: str | None = None,
        **options: Unpack[OptionFields],
    ) -> AsyncRemoteSubmission:
        """Hand in one image or many, also from an async iterable (see :meth:`Client.submit`)."""
        lane = lane or (Lane.INTERACTIVE if is_one(images) else Lane.BULK)
        with tracing.span("submit", "client"), Packer(skips_rejected=rejected == "skip") as packer:
            async for image in _each(images):
                await anyio.to_thread.run_sync(packer.add, image)  # it reads files and encodes pixels
            accepted = await self._run(
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
        return AsyncRemoteSubmission(self, accepted)

    async def submission(self, submission_id: UUID) -> AsyncRemoteSubmission:
        """Return an earlier submission (see :meth:`Client.submission`)."""
        return AsyncRemoteSubmission(self, await self._run(operations.submission(submission_id)))

    async def submission_of_job(self, job_id: UUID) -> AsyncRemoteSubmission:
        """Return one job as something to wait on (see :meth:`Client.submission_of_job`)."""
        return AsyncRemoteSubmission(self, await self._run(operations.submission_of_job(job_id)))

    async def job(self, job_id: UUID) -> Job:
        """Return a job as it stands now (see :meth:`Client.job`)."""
        return await self._run(operations.show(job_id))

    async def jobs(
        self,
        *,
        state: JobState | None = None,
        label: str | None = None,
        submission_id: UUID | None = None,
        limit: int | None = 50,
    ) -> list[Job]:
        """Return jobs, newest first, that match every filter given."""
        return await self._run(operations.list_jobs(state, label, submission_id, limit))

    async def cancel(self, job_id: UUID) -> Job:
        """Cancel a job and return it (see :meth:`Client.cancel`)."""
        return await self._run(operations.cancel(job_id))

    async def redrive(self, job_id: UUID) -> Job:
        """Queue a dead job again and return it (see :meth:`Client.redrive`)."""
        return await self._run(operations.redrive(job_id))

    async def models(self) -> list[ServedModel]:
        """Return the model versions that workers serve or have served."""
        return await self._run(operations.list_models())

    async def close(self) -> None:
        """Close every connection; submitted jobs go on."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, operation: Operation[T]) -> T:
        try:
            call = next(operation)
            while True:
                call = operation.send(await self._send(call))
        except StopIteration as end:
            result: T = end.value
            return result

    async def _send(self, call: Call) -> bytes:
        with wire.translated(self.server):
            async for attempt in self._attempts():
                with attempt:
                    response = await self._http.send(self._request(call))
                    wire.check(response)
        return response.content

    async def _stream(self, pending: Pending, call: Call) -> AsyncIterator[Job]:
        with wire.translated(self.server):
            async for attempt in self._attempts():
                with attempt:
                    response = await self._http.send(self._request(call), stream=True)
                    try:
                        if response.status_code >= 400:
                            await response.aread()
                        wire.check(response)
                        async for line in response.aiter_lines():
                            if (job := pending.parse(line)) is not None:
                                yield job
                    finally:
                        await response.aclose()

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
            content=None if call.body is None else _pieces(call),
            timeout=self._timeouts.of(call),
        )


async def _pieces(call: Call) -> AsyncIterator[bytes]:
    for piece in call.pieces():
        yield piece


async def _each(images: Any | Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    if isinstance(images, AsyncIterable):
        async for image in images:
            yield image
    else:
        for image in [images] if is_one(images) else images:
            yield image


class AsyncRemoteSubmission:
    """The jobs of one submission: :class:`alexq_producer.client.RemoteSubmission` with ``await``."""

    def __init__(self, client: AsyncClient, accepted: Accepted) -> None:
        self._client = client
        self._accepted = accepted
        self.id = accepted.submission_id
        """None where every image was refused."""
        self.job_ids = accepted.job_ids
        self.rejected = accepted.rejected
        """Images that were refused, when ``submit`` was told to skip them, in the shape of jobs."""

    def __len__(self) -> int:
        return len(self.job_ids)

    async def results(self, timeout_s: float | None = None) -> AsyncIterator[Job]:
        """Yield each job once as it reaches a terminal state (see :meth:`RemoteSubmission.results`)."""
        pending = Pending(self._accepted, timeout_s)
        while (call := pending.next_stream()) is not None:
            async for job in self._client._stream(pending, call):
                yield job

    async def wait(self, timeout_s: float | None = None) -> list[Job]:
        """Return every job, finished, in the order submitted; raises as :meth:`results`."""
        with tracing.span("wait", "client", {"alexq.submission.id": str(self.id)}):
            return operations.in_order([job async for job in self.results(timeout_s)], self._accepted)

    async def progress(self) -> SubmissionStatus:
        """Return how far it is (see :meth:`RemoteSubmission.progress`)."""
        return await self._client._run(operations.status(self._accepted.known_id()))

    async def cancel(self) -> SubmissionStatus:
        """Cancel what is unfinished (see :meth:`RemoteSubmission.cancel`)."""
        return await self._client._run(operations.cancel_submission(self._accepted.known_id()))
