"""Submitting: what is accepted is on disk and in the queue; what is refused leaves nothing."""

from __future__ import annotations

import io
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import pytest
import redis
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from alexq_producer import Producer
from alexq_schema.announcing import announce
from alexq_schema.db import jobs, publishing, queries, workers
from alexq_schema.db.jobs import Limits
from alexq_schema.db.session import Database
from alexq_schema.errors import (
    DatabaseUnavailableError,
    ImageEmptyError,
    ImageNotFoundError,
    ImageTypeError,
    ImageUnreadableError,
    JobNotFoundError,
    MigrationError,
    UsageError,
    WaitTimeoutError,
)
from alexq_schema.ids import new_id, tagged_id
from alexq_schema.images import FileImageStore, Staging
from alexq_schema.job import JobState, ModelRef
from alexq_schema.names import QUEUES, Lane, finished_channel, queue_name
from alexq_schema.settings import Settings
from alexq_schema.work import PredictionWriter, Succeeded
from tests.helpers.eventually import eventually


def jpeg(number: int = 0) -> bytes:
    """Bytes that look like a JPEG from outside."""
    return b"\xff\xd8\xff" + number.to_bytes(4, "big")


@pytest.fixture
def client(broker_url: str) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(broker_url)
    yield client
    client.close()


def stored(settings: Settings) -> int:
    root = FileImageStore(settings.data_dir / "images").root
    return sum(path.is_file() for path in root.rglob("*"))


def waiting(client: redis.Redis) -> int:
    """Return how many messages wait in all lanes."""
    return sum(client.llen(name) for name in QUEUES)  # type: ignore[misc]


def rows(database: Database) -> int:
    with database.read() as connection:
        return sum(queries.counts(connection).values())


def test_bytes_paths_and_files_are_one_call_each_or_together(producer: Producer, tmp_path: Path) -> None:
    path = tmp_path / "cat.jpg"
    path.write_bytes(jpeg())
    with path.open("rb") as file:
        submission = producer.submit([jpeg(), bytearray(jpeg()), str(path), path, file, io.BytesIO(jpeg())])

    assert [job.source for job in producer.jobs(submission.job_ids)] == [
        "image 0",
        "image 1",
        str(path),
        str(path),
        str(path),
        "image 5",
    ]
    assert len(producer.submit(path)) == len(producer.submit(jpeg())) == 1


def test_an_image_is_stored_once_and_its_jobs_are_many(producer: Producer, settings: Settings) -> None:
    producer.submit([jpeg(1), jpeg(2), jpeg(1)])
    producer.submit(jpeg(1))

    assert stored(settings) == 2


def test_many_ids_go_in_one_message(producer: Producer, client: redis.Redis) -> None:
    producer.submit(jpeg(number) for number in range(130))

    assert waiting(client) == 3  # 64 + 64 + 2


def test_statements_grow_by_the_thousand_not_by_the_image(producer: Producer) -> None:
    seen: list[str] = []

    def note(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("INSERT"):
            seen.append(statement)

    event.listen(producer._database.engine, "before_cursor_execute", note)
    producer.submit(jpeg(number) for number in range(1_500))

    assert len(seen) == 3  # the submission, a thousand rows, five hundred rows


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("empty.jpg", b"", ImageEmptyError),
        ("text.jpg", b"hello", ImageTypeError),
        ("missing.jpg", None, ImageNotFoundError),
        ("folder.jpg", "folder", ImageUnreadableError),
        ("nul.jpg\0", None, ImageUnreadableError),
    ],
)
def test_a_refused_image_is_named_and_nothing_is_stored(
    producer: Producer,
    settings: Settings,
    database: Database,
    client: redis.Redis,
    tmp_path: Path,
    name: str,
    content: bytes | str | None,
    error: type[Exception],
) -> None:
    bad = tmp_path / name
    if isinstance(content, bytes):
        bad.write_bytes(content)
    elif content == "folder":
        bad.mkdir()

    with pytest.raises(error, match=name.rstrip("\0")):
        producer.submit([jpeg(1), bad, jpeg(2)])

    assert (stored(settings), rows(database), waiting(client)) == (0, 0, 0)


def test_refused_images_may_be_skipped(producer: Producer) -> None:
    submission = producer.submit([jpeg(1), b"", jpeg(2), b"text"], rejected="skip")

    assert len(submission) == 2
    assert [(r.source, r.error.code) for r in submission.rejected] == [
        ("image 1", "image_empty"),
        ("image 3", "image_type_unsupported"),
    ]


def test_an_image_over_the_limit_is_refused_without_reading_it_whole(settings: Settings) -> None:
    class Endless(io.RawIOBase):
        taken = 0

        def read(self, size: int = -1) -> bytes:
            assert size >= 0, "asked for everything"
            self.taken += size
            return b"\xff\xd8\xff".ljust(size, b"x")

    endless = Endless()
    with Producer(settings.model_copy(update={"max_image_bytes": 1_000})) as producer:
        submission = producer.submit(endless, rejected="skip")  # type: ignore[arg-type]

    assert submission.rejected[0].error.code == "image_too_large"
    assert endless.taken == 1_001


@pytest.mark.parametrize("nothing", [[], iter(())])
def test_no_image_at_all_is_a_mistake(producer: Producer, nothing: list[bytes]) -> None:
    with pytest.raises(UsageError, match="no image"):
        producer.submit(nothing)


@pytest.mark.parametrize("wrong", [7, [7], [io.StringIO("text")]])
def test_what_is_no_image_is_named(producer: Producer, wrong: object) -> None:
    with pytest.raises(UsageError):
        producer.submit(wrong)  # type: ignore[arg-type]


def test_without_a_broker_jobs_are_accepted_and_wait_for_the_sweeper(
    settings: Settings, database: Database
) -> None:
    unreachable = settings.model_copy(
        update={"broker_url": "redis://127.0.0.1:9/0", "publish_timeout_s": 0.5}
    )
    with Producer(unreachable) as producer:
        submission = producer.submit([jpeg(1), jpeg(2)])

    with database.begin() as connection:
        unpublished = [job_id for job_id, *_ in publishing.take_unpublished(connection, limit=10)]
    assert unpublished == list(submission.job_ids)


def test_without_a_database_nothing_is_accepted(settings: Settings, client: redis.Redis) -> None:
    unreachable = settings.model_copy(update={"database_url": "postgresql://nobody@127.0.0.1:9/none"})

    with Producer(unreachable) as producer, pytest.raises(DatabaseUnavailableError, match="does not answer"):
        producer.submit(jpeg())

    assert waiting(client) == 0


def test_unknown_ids_are_named(producer: Producer) -> None:
    unknown = new_id()
    with pytest.raises(JobNotFoundError, match=str(unknown)):
        producer.jobs([unknown])
    with pytest.raises(JobNotFoundError, match=str(unknown)):
        producer.submission(unknown)


def test_waiting_gives_up_in_time_and_says_how_to_go_on(producer: Producer) -> None:
    submission = producer.submit(jpeg())

    with pytest.raises(WaitTimeoutError, match=f"alexq result {submission.id}"):
        submission.wait(timeout_s=0.2)


class Finisher:
    """Finishes jobs as a worker would, without a model."""

    def __init__(self, database: Database, client: redis.Redis) -> None:
        self.database = database
        self.client = client
        self.worker_id = new_id()
        with database.begin() as connection:
            self.model_id = workers.register_model(
                connection, ModelRef(name="m", version="1", precision="fp32", trained=True), "0" * 64
            )
            workers.register(
                connection, self.worker_id, host="h", pid=1, device="cpu", model_id=self.model_id
            )

    def finish(self, job_id: object, *, submission_id: object = None) -> None:
        predictions = PredictionWriter(["cat"]).write([0], [1.0])
        with self.database.begin() as connection:
            [claim] = jobs.claim(connection, [job_id], self.worker_id)  # type: ignore[list-item]
            jobs.commit(
                connection,
                [Succeeded(claim, predictions, self.model_id, 0.0, 0.0, 1)],
                worker_id=self.worker_id,
                limits=Limits(max_attempts=1, max_crashes=1),
                pause_s=lambda _: 0.0,
            )
        if submission_id is not None:
            announce(self.client, [(submission_id, job_id)])  # type: ignore[list-item]


def test_results_come_in_completion_order_as_they_are_announced(
    producer: Producer, database: Database, client: redis.Redis
) -> None:
    finisher = Finisher(database, client)
    submission = producer.submit([jpeg(1), jpeg(2), jpeg(3)])
    order = [submission.job_ids[place] for place in (2, 0, 1)]
    seen = []

    results = submission.results(timeout_s=150)
    for job_id in order:
        finishing = threading.Timer(0.2, finisher.finish, [job_id], {"submission_id": submission.id})
        finishing.start()
        seen.append(next(results).job_id)
        finishing.join()  # its result may have been seen before it was announced

    assert seen == order
    assert list(results) == []


def test_a_lost_announcement_costs_time_only(
    producer: Producer, database: Database, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexq_producer.submission.SILENCE_S", 0.3)
    submission = producer.submit(jpeg())
    finishing = threading.Timer(0.2, Finisher(database, client).finish, [submission.job_ids[0]])
    finishing.start()

    assert submission.wait(timeout_s=150)[0].label == "cat"
    finishing.join()  # before its database is closed


def test_a_cancelled_job_ends_the_wait_at_once(
    producer: Producer, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexq_producer.submission.SILENCE_S", 3600)  # it is told, or never knows
    submission = producer.submit([jpeg(1), jpeg(2)])
    states: list[object] = []
    waiter = threading.Thread(
        target=lambda: states.extend(job.state for job in submission.wait()), daemon=True
    )
    waiter.start()
    eventually(lambda: client.pubsub_numsub(finished_channel(submission.id))[0][1] == 1)

    producer.cancel(submission.job_ids)
    waiter.join(60)

    assert states == [JobState.CANCELLED] * 2


def test_a_submission_that_fails_half_way_leaves_no_row(
    producer: Producer, database: Database, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexq_schema.db.accept.ROWS_PER_STATEMENT", 10)
    full = OperationalError("INSERT", {}, sqlite3.OperationalError("disk full"))
    full.connection_invalidated = True  # as a lost connection
    inserts = 0

    def fail_at_the_third(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        nonlocal inserts
        inserts += statement.startswith("INSERT INTO jobs")
        if inserts == 3:
            raise full

    event.listen(producer._database.engine, "before_cursor_execute", fail_at_the_third)
    with pytest.raises(DatabaseUnavailableError):
        producer.submit(jpeg(number) for number in range(50))

    assert (rows(database), waiting(client)) == (0, 0)


def test_a_database_without_tables_is_a_clear_error(settings: Settings, tmp_path: Path) -> None:
    empty = settings.model_copy(update={"database_url": f"sqlite:///{tmp_path / 'no-tables.db'}"})

    with Producer(empty) as producer, pytest.raises(MigrationError, match="alexq migrate"):
        producer.submit(jpeg())


def test_waiting_works_without_a_broker(settings: Settings, database: Database, client: redis.Redis) -> None:
    unreachable = settings.model_copy(
        update={"broker_url": "redis://127.0.0.1:9/0", "publish_timeout_s": 0.5}
    )
    with Producer(unreachable) as producer:
        submission = producer.submit(jpeg())
        finishing = threading.Timer(0.5, Finisher(database, client).finish, [submission.job_ids[0]])
        finishing.start()

        assert submission.wait(timeout_s=150)[0].state is JobState.SUCCEEDED
        finishing.join()  # before its database is closed


def test_an_earlier_submission_is_found_again(
    producer: Producer, database: Database, client: redis.Redis
) -> None:
    job_ids = producer.submit([jpeg(1), jpeg(2)]).job_ids
    finisher = Finisher(database, client)
    for job_id in job_ids:
        finisher.finish(job_id)

    submission_id = producer.jobs(job_ids)[0].submission_id
    assert submission_id is not None
    again = producer.submission(submission_id)

    assert [job.job_id for job in again.wait(timeout_s=60)] == list(job_ids)
    assert again.counts() == {JobState.SUCCEEDED: 2}


def test_submissions_that_come_together_share_one_sync_one_transaction_and_their_messages(
    producer: Producer, database: Database, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go, groups = threading.Event(), []
    publish = producer._images.publish

    def held(stagings: Sequence[Staging]) -> None:
        groups.append(len(stagings))
        assert may_go.wait(60)
        publish(stagings)

    monkeypatch.setattr(producer._images, "publish", held)
    commits = []
    event.listen(producer._database.engine, "commit", commits.append)
    with ThreadPoolExecutor(33) as threads:
        first = threads.submit(producer.submit, jpeg(0))
        eventually(lambda: groups == [1], what="the first is being accepted")
        others = [threads.submit(producer.submit, jpeg(number)) for number in range(1, 33)]
        together = producer._acceptance._accept_together
        eventually(lambda: len(together._waiting) == 32, what="the others wait")
        may_go.set()
        submissions = [future.result(60) for future in (first, *others)]

    assert groups == [1, 32]
    assert len(commits) == 2
    assert waiting(client) == 2
    assert len({submission.id for submission in submissions}) == 33
    assert rows(database) == 33
    sources = [producer.jobs(submission.job_ids)[0].submission_id for submission in submissions]
    assert sources == [submission.id for submission in submissions]


def test_one_image_is_interactive_and_many_are_bulk_unless_the_caller_says_otherwise(
    producer: Producer, client: redis.Redis
) -> None:
    def lengths() -> list[int]:
        return [client.llen(queue_name(lane)) for lane in (Lane.INTERACTIVE, Lane.BULK)]  # type: ignore[misc]

    producer.submit(jpeg(1))
    assert lengths() == [1, 0]
    producer.submit([jpeg(1), jpeg(2)])
    assert lengths() == [1, 1]
    producer.submit(jpeg(1), lane=Lane.BULK)
    producer.submit([jpeg(1), jpeg(2)], lane=Lane.INTERACTIVE)
    assert lengths() == [2, 2]


def test_threads_that_wait_share_one_subscription_and_get_their_own_results(
    producer: Producer, database: Database, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexq_producer.submission.SILENCE_S", 3600)  # they are told, or never know
    finisher = Finisher(database, client)
    submissions = [producer.submit(jpeg(number)) for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        waits = [threads.submit(submission.wait, 60) for submission in submissions]
        listeners = producer._announcements._listeners
        eventually(lambda: len(listeners) == 8, what="everyone listens")
        channel = finished_channel(submissions[0].id)
        eventually(lambda: producer._announcements.hears(channel), what="it is subscribed")
        assert client.pubsub_numsub(channel)[0][1] == 1
        for submission in submissions:
            finisher.finish(submission.job_ids[0], submission_id=submission.id)

        assert [[job.job_id for job in wait.result(60)] for wait in waits] == [
            list(submission.job_ids) for submission in submissions
        ]
    assert not listeners  # nothing is kept of those who have gone


class Reads:
    """Counts what a producer reads of jobs; may break it."""

    def __init__(self, producer: Producer) -> None:
        self.count = 0
        self.is_broken = False
        event.listen(producer._database.engine, "before_cursor_execute", self._note)

    def _note(self, _conn: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("SELECT") and "FROM jobs" in statement:
            self.count += 1
            if self.is_broken:
                lost = OperationalError(statement, {}, sqlite3.OperationalError("gone"))
                lost.connection_invalidated = True
                raise lost


def waiting_listeners(producer: Producer) -> list[UUID]:
    """Return the jobs whose listeners sleep until they are told."""
    found = list(producer._announcements._listeners.items())
    return [job_id for job_id, [listener] in found if listener.is_waiting]


def test_threads_that_classify_cost_one_read_for_all_that_end_together(
    producer: Producer, database: Database, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexq_producer.submission.SILENCE_S", 3600)  # they are told, or never know
    finisher = Finisher(database, client)
    reads = Reads(producer)
    with ThreadPoolExecutor(8) as threads:
        waits = [threads.submit(producer.classify, jpeg(number), 60) for number in range(8)]
        eventually(lambda: len(waiting_listeners(producer)) == 8, what="everyone waits")
        with database.read() as connection:
            accepted = queries.newest(connection)
        for job in accepted:
            finisher.finish(job.job_id)
        announce(client, [(job.submission_id, job.job_id) for job in accepted if job.job_id])

        assert {wait.result(60).job_id for wait in waits} == {job.job_id for job in accepted}
    assert reads.count == 1


def test_who_is_busy_is_told_ids_and_reads_the_results_when_they_are_wanted(
    producer: Producer, database: Database, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexq_producer.submission.SILENCE_S", 3600)
    finisher = Finisher(database, client)
    submission = producer.submit([jpeg(number) for number in range(3)])
    finisher.finish(submission.job_ids[0])
    reads = Reads(producer)
    results = submission.results(60)
    assert next(results).job_id == submission.job_ids[0]
    channel = finished_channel(submission.id)
    eventually(lambda: producer._announcements.hears(channel), what="it is subscribed")
    [listener] = producer._announcements._listeners[submission.job_ids[1]]

    for job_id in submission.job_ids[1:]:
        finisher.finish(job_id, submission_id=submission.id)
    eventually(lambda: listener._told.qsize() == 2, what="both were announced")

    assert reads.count == 1
    assert [job.job_id for job in results] == list(submission.job_ids[1:])
    assert reads.count == 2


def test_a_database_that_is_gone_when_results_are_announced_is_told_to_who_waits(
    producer: Producer, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexq_producer.submission.SILENCE_S", 3600)
    reads = Reads(producer)
    with ThreadPoolExecutor(2) as threads:
        waits = [threads.submit(producer.classify, jpeg(number), 60) for number in range(2)]
        eventually(lambda: len(waiting_listeners(producer)) == 2, what="both wait")
        reads.is_broken = True
        channel_of = tagged_id(producer._tag)
        announce(client, [(channel_of, job_id) for job_id in waiting_listeners(producer)])

        for wait in waits:
            with pytest.raises(DatabaseUnavailableError):
                wait.result(60)


def test_another_producers_submission_can_be_waited_for(
    producer: Producer,
    settings: Settings,
    database: Database,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("alexq_producer.submission.SILENCE_S", 3600)
    theirs = producer.submit(jpeg())
    with Producer(settings) as other, ThreadPoolExecutor(1) as threads:
        wait = threads.submit(other.submission(theirs.id).wait, 60)
        eventually(lambda: other._announcements.hears(finished_channel(theirs.id)), what="it listens")
        Finisher(database, client).finish(theirs.job_ids[0], submission_id=theirs.id)

        assert wait.result(60)[0].label == "cat"


def test_what_is_announced_while_the_connection_is_lost_is_asked_for(
    producer: Producer, database: Database, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexq_producer.submission.SILENCE_S", 3600)
    submission = producer.submit(jpeg())
    with ThreadPoolExecutor(1) as threads:
        wait = threads.submit(submission.wait, 60)
        eventually(lambda: producer._announcements.hears(finished_channel(submission.id)), what="it listens")
        Finisher(database, client).finish(submission.job_ids[0])  # and nobody says so
        client.client_kill_filter(_type="pubsub")

        assert wait.result(60)[0].label == "cat"


@pytest.mark.parametrize("deadline_s", [0.0, -1.0, float("nan"), float("inf"), 1e12])
def test_a_deadline_that_makes_no_sense_is_refused(
    producer: Producer, database: Database, deadline_s: float
) -> None:
    with pytest.raises(UsageError, match="deadline_s"):
        producer.submit(jpeg(), deadline_s=deadline_s)

    assert rows(database) == 0
