"""The HTTP clients against the real gateway and against the public fake: one suite for all four."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx2
import numpy as np
import pytest
from PIL import Image

from alexq import AsyncClient, Client, Retries, Timeouts
from alexq.testing import FakeGateway
from alexq_producer.packing import encoded
from alexq_schema.db.session import Database
from alexq_schema.errors import (
    AlexqError,
    BrokerUnavailableError,
    DatabaseUnavailableError,
    GatewayUnavailableError,
    IdempotencyKeyReusedError,
    ImageEmptyError,
    ImageNotFoundError,
    ImageTypeError,
    JobNotFoundError,
    JobStateError,
    StackNotRunningError,
    UnauthenticatedError,
    UsageError,
    WaitTimeoutError,
    WebhookNotFoundError,
)
from alexq_schema.job import JobState
from alexq_schema.settings import Settings
from tests.helpers.gateway import make_key, running_gateway
from tests.helpers.outside import response, serving
from tests.helpers.photos import encode, photo_crops
from tests.helpers.system import System, success
from tests.helpers.webhooks import deliveries_of, register

CROPS = photo_crops(3)
PHOTOGRAPHS = [encode(crop) for crop in CROPS]
TEXT = b"This is no picture.\n"
QUICK = Retries(attempts=3, total_s=20)


class Blocking:
    """An :class:`AsyncClient`, or what it returns, with blocking methods: so that one suite fits both."""

    def __init__(self, inner: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._inner = inner
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        return self._blocking(value) if callable(value) else value

    def __len__(self) -> int:
        return len(self._inner)

    def _blocking(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            returned = method(*args, **kwargs)
            if hasattr(returned, "__aiter__"):
                return self._each(returned)
            result = self._loop.run_until_complete(returned)
            is_ours = type(result).__module__.startswith("alexq_producer.async_client")
            return Blocking(result, self._loop) if is_ours else result

        return call

    def _each(self, results: AsyncIterator[Any]) -> Iterator[Any]:
        while (result := self._loop.run_until_complete(anext(results, None))) is not None:
            yield result


@dataclass
class Bench:
    """A client and a hand that ends jobs."""

    client: Any
    finish: Callable[[UUID], None]
    kill: Callable[[UUID], None]


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """What is behind the gateway is tested elsewhere."""
    return sqlite_url


@pytest.fixture
def bench_of_gateway(
    settings: Settings, tmp_path: Path, database: Database
) -> Iterator[tuple[str, Any, Any]]:
    system = System(database)

    def finish(job_id: UUID) -> None:
        system.commit([success(claim) for claim in system.claim([job_id])])

    def kill(job_id: UUID) -> None:
        system.change([job_id], state="dead", error_code="engine_failed")

    allowed = {"image_url_hosts": "127.0.0.1", "image_url_private": True}
    with running_gateway(settings.model_copy(update=allowed), tmp_path / "gateway.log") as gateway:
        yield gateway.url, finish, kill


@pytest.fixture(params=["gateway", "fake"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["blocking", "async"])
def bench(request: pytest.FixtureRequest, kind: str) -> Iterator[Bench]:
    transport: Any = None
    if kind == "fake":
        fake = transport = FakeGateway(finishes=False)
        url, finish, kill = "http://alexq.test", fake.finish, fake.kill
    else:
        url, finish, kill = request.getfixturevalue("bench_of_gateway")
    if request.param == "blocking":
        with Client(url, transport=transport, retries=QUICK) as client:
            yield Bench(client, finish, kill)
    else:
        loop = asyncio.new_event_loop()
        inner = AsyncClient(url, transport=transport, retries=QUICK)
        yield Bench(Blocking(inner, loop), finish, kill)
        loop.run_until_complete(inner.close())
        loop.close()


def test_results_come_as_jobs_finish(bench: Bench) -> None:
    submission = bench.client.submit(PHOTOGRAPHS)
    first, second, third = submission.job_ids
    for job_id in (third, first):
        bench.finish(job_id)

    results = submission.results(timeout_s=1)
    assert [next(results).job_id, next(results).job_id] == [third, first]
    status = submission.progress()
    assert (status.total, status.is_finished) == (3, False)
    assert status.counts == {JobState.SUCCEEDED: 2, JobState.QUEUED: 1}
    with pytest.raises(WaitTimeoutError, match="1 of 3"):
        list(results)

    bench.finish(second)
    assert [job.job_id for job in submission.wait(timeout_s=150)] == [first, second, third]
    again = bench.client.submission(submission.id)
    assert [job.label for job in again.wait(timeout_s=150)] == ["tabby"] * 3


def test_images_may_be_whatever_a_service_holds(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / ".hidden" / "cät.jpg"
    path.parent.mkdir()
    path.write_bytes(PHOTOGRAPHS[0])
    images = (
        PHOTOGRAPHS[0],
        bytearray(PHOTOGRAPHS[0]),
        path,
        str(path),
        io.BytesIO(PHOTOGRAPHS[0]),
        CROPS[0],
        np.asarray(CROPS[0]),
        np.zeros((8, 8), np.uint8),
    )

    submission = bench.client.submit(image for image in images)

    assert len(submission) == len(images)
    jobs = [bench.client.job(job_id) for job_id in submission.job_ids]
    assert [job.source for job in jobs[:4]] == ["image 0", "image 1", str(path), str(path)]
    assert len({job.image_key for job in jobs[:5]}) == 1
    assert len(bench.client.submit(path)) == 1
    assert len(bench.client.submit(np.asarray(CROPS[0]))) == 1


def test_images_may_be_at_urls_among_others(bench: Bench) -> None:
    picture = response(PHOTOGRAPHS[0])
    with serving(lambda sock, _request: sock.sendall(picture)) as port:
        url = f"http://127.0.0.1:{port}/cat.jpg"
        submission = bench.client.submit([PHOTOGRAPHS[1], f"{url}?signature=s", PHOTOGRAPHS[2]])
        with pytest.raises(WaitTimeoutError):
            bench.client.classify(url, timeout_s=1, idempotency_key="k")
        mixed = bench.client.submit([url, TEXT], rejected="skip")
    jobs = [bench.client.job(job_id) for job_id in submission.job_ids]

    assert [job.source for job in jobs] == ["image 0", url, "image 2"]
    assert [job.image_key for job in jobs[::2]] == [
        hashlib.sha256(one).hexdigest() for one in PHOTOGRAPHS[1:]
    ]
    assert (len(mixed), [one.source for one in mixed.rejected]) == (1, ["image 1"])
    [queued] = [job for job in bench.client.jobs() if job.submission_id not in (submission.id, mixed.id)]
    bench.finish(queued.job_id)
    assert bench.client.classify(url, idempotency_key="k").label == "tabby"


def test_pixels_lose_nothing_on_their_way() -> None:
    pixels = np.asarray(CROPS[0])

    for image in (pixels, CROPS[0]):
        _, data = encoded(image, 0)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)
    with pytest.raises(UsageError, match="CMYK"):
        encoded(CROPS[0].convert("CMYK"), 0)


def test_classify_waits_for_its_one_image(bench: Bench) -> None:
    with pytest.raises(WaitTimeoutError, match="goes on"):
        bench.client.classify(PHOTOGRAPHS[0], timeout_s=1, idempotency_key="k")
    [job] = bench.client.jobs()
    bench.finish(job.job_id)

    finished = bench.client.classify(PHOTOGRAPHS[0], idempotency_key="k")

    assert (finished.job_id, finished.label) == (job.job_id, "tabby")


def test_an_error_has_the_class_that_its_code_names(bench: Bench, tmp_path: Path) -> None:
    client = bench.client
    with pytest.raises(ImageTypeError, match="image 1"):
        client.submit([PHOTOGRAPHS[0], TEXT])
    with pytest.raises(ImageEmptyError):
        client.classify(b"")
    with pytest.raises(ImageNotFoundError, match=r"nowhere\.jpg"):
        client.submit([tmp_path / "nowhere.jpg"])
    for nothing in ([], 7, [7], np.zeros((2, 2)), np.zeros((2, 2, 7), np.uint8)):
        with pytest.raises((UsageError, TypeError)):
            client.submit(nothing)
    with pytest.raises(JobNotFoundError):
        client.job(uuid4())
    with pytest.raises(JobNotFoundError):
        client.submission(uuid4())
    client.submit(PHOTOGRAPHS[:1], idempotency_key="k")
    with pytest.raises(IdempotencyKeyReusedError):
        client.submit(PHOTOGRAPHS[1:], idempotency_key="k")
    assert len(client.jobs()) == 1


def test_a_submission_may_name_a_webhook(bench: Bench, kind: str, database: Database) -> None:
    webhook_id, _ = register(database, "https://receiver.example/")

    submission = bench.client.submit(PHOTOGRAPHS, webhook=webhook_id)

    assert len(submission) == 3
    if kind == "gateway":
        [row] = deliveries_of(database, webhook_id)
        assert (row.submission_id, row.event) == (submission.id, "submission.finished")
        with pytest.raises(WebhookNotFoundError):
            bench.client.submit(PHOTOGRAPHS, webhook=uuid4())


def test_images_that_are_refused_can_be_listed(bench: Bench, tmp_path: Path) -> None:
    submission = bench.client.submit([PHOTOGRAPHS[0], TEXT], rejected="skip")
    nothing = bench.client.submit([TEXT], rejected="skip")

    assert len(submission) == 1
    [refused] = submission.rejected
    assert (refused.source, refused.state) == ("image 1", "rejected")
    assert refused.error.code == "image_type_unsupported"
    assert (nothing.id, len(nothing), len(nothing.rejected)) == (None, 0, 1)
    assert nothing.wait() == []
    nowhere = bench.client.submit([tmp_path / "nowhere.jpg", PHOTOGRAPHS[0]], rejected="skip")
    assert len(nowhere) == len(nowhere.rejected) == 1
    assert nowhere.rejected[0].error.code == "image_not_found"
    assert not bench.client.submit([tmp_path / "nowhere.jpg"], rejected="skip")
    with pytest.raises(JobNotFoundError):
        nothing.progress()


def test_jobs_are_cancelled_redriven_and_listed(bench: Bench) -> None:
    submission = bench.client.submit(PHOTOGRAPHS)
    done, dead, queued = submission.job_ids
    bench.finish(done)
    bench.kill(dead)

    assert [job.job_id for job in bench.client.jobs(state=JobState.DEAD)] == [dead]
    assert [job.job_id for job in bench.client.jobs(label="tabby")] == [done]
    assert [job.job_id for job in bench.client.jobs(limit=2)] == [queued, dead]
    assert bench.client.redrive(dead).state == JobState.QUEUED
    assert bench.client.cancel(queued).state == JobState.CANCELLED
    with pytest.raises(JobStateError):
        bench.client.cancel(done)
    with pytest.raises(JobStateError):
        bench.client.redrive(queued)
    assert submission.cancel().counts == {JobState.SUCCEEDED: 1, JobState.CANCELLED: 2}


def test_async_iterables_are_taken_as_they_come() -> None:
    async def photographs() -> AsyncIterator[bytes]:
        for photograph in PHOTOGRAPHS:
            await asyncio.sleep(0)
            yield photograph

    async def main() -> list[str | None]:
        async with AsyncClient("http://alexq.test", transport=FakeGateway(label="dahlia")) as client:
            submission = await client.submit(photographs())
            return [job.label async for job in submission.results()]

    assert asyncio.run(main()) == ["dahlia"] * 3


class Unreliable(httpx2.BaseTransport):
    """Fails in these ways, one a request, before it passes requests on; an answer may get lost too."""

    def __init__(self, inner: httpx2.BaseTransport, *faults: httpx2.Response | str) -> None:
        self._inner = inner
        self._faults = list(faults)
        self.count = 0

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.count += 1
        fault = self._faults.pop(0) if self._faults else None
        if fault == "refused":
            raise httpx2.ConnectError("refused", request=request)
        if isinstance(fault, httpx2.Response):
            return fault
        response = self._inner.handle_request(request)
        if fault == "answer lost":
            raise httpx2.ReadError("reset", request=request)
        return response


def problem(status: int, error: type[AlexqError], retry_after: str = "0") -> httpx2.Response:
    return httpx2.Response(
        status, headers={"Retry-After": retry_after}, json={"code": error.code, "detail": "a test"}
    )


def test_what_passes_is_retried_and_makes_no_second_job() -> None:
    fake = FakeGateway()
    unreliable = Unreliable(
        fake, "refused", problem(503, DatabaseUnavailableError), httpx2.Response(429), "answer lost"
    )
    with Client("http://alexq.test", transport=unreliable, retries=Retries(attempts=6)) as client:
        submission = client.submit(PHOTOGRAPHS)

        assert unreliable.count == 5
        assert len({request.headers["idempotency-key"] for request in fake.requests}) == 1
        assert len(client.jobs()) == len(submission) == 3


def test_what_lasts_ends_with_the_error_itself() -> None:
    def failing(*faults: httpx2.Response | str) -> Client:
        return Client("http://alexq.test", transport=Unreliable(FakeGateway(), *faults), retries=QUICK)

    with pytest.raises(BrokerUnavailableError, match="a test"):
        failing(*[problem(503, BrokerUnavailableError)] * 3).jobs()
    with pytest.raises(GatewayUnavailableError, match=r"alexq\.test does not answer"):
        failing(*["refused"] * 3).jobs()
    with pytest.raises(GatewayUnavailableError, match="502: a proxy speaks"):
        failing(*[httpx2.Response(502, text="a proxy speaks")] * 3).jobs()
    # What a repetition cannot better is not repeated.
    with pytest.raises(UnauthenticatedError):
        failing(problem(401, UnauthenticatedError)).jobs()


def test_a_stream_that_breaks_is_taken_up_again() -> None:
    class Broken(httpx2.SyncByteStream):
        def __init__(self, line: bytes) -> None:
            self._line = line

        def __iter__(self) -> Iterator[bytes]:
            yield self._line
            raise httpx2.ReadError("reset")

    fake = FakeGateway()
    unreliable = Unreliable(fake)
    with Client("http://alexq.test", transport=unreliable, retries=QUICK) as client:
        submission = client.submit(PHOTOGRAPHS)
        line = client.job(submission.job_ids[0]).model_dump_json().encode() + b"\n"
        unreliable._faults.append(httpx2.Response(200, stream=Broken(line)))

        assert [job.job_id for job in submission.results()] == list(submission.job_ids)


def test_address_and_key_come_from_the_settings(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(StackNotRunningError, match="alexq up"):
        Client()
    with running_gateway(settings, tmp_path / "gateway.log") as gateway:
        monkeypatch.setenv("ALEXQ_SERVER", gateway.url + "/")
        monkeypatch.setenv("ALEXQ_API_KEY", make_key(settings, "shop"))
        with Client(timeouts=Timeouts(connect_s=2.0)) as client:
            assert client.jobs() == []
        with Client(api_key="") as client, pytest.raises(UnauthenticatedError):
            client.jobs()
