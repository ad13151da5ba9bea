"""The outbox under a test's hand: what is due, who may attempt it, what becomes of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import event, func, select, update

from alexq_schema.db import deliveries, delivery_log, delivery_waking, jobs, retention, webhooks
from alexq_schema.db.clock import db_now
from alexq_schema.db.deliveries import ClaimedDelivery, Notice, WebhookDelivery
from alexq_schema.db.session import Database
from alexq_schema.db.webhooks import Webhook
from alexq_schema.ids import new_id
from alexq_schema.messages import DeliverWebhook
from alexq_schema.webhooks import DeliveryState, Event
from alexq_schema.work import Errored
from tests.helpers import webhooks as webhook_helpers
from tests.helpers.system import System, success
from tests.helpers.webhooks import deliveries_of, make_due, register

URL = "https://receiver.example/hook"
LEASE_S = 600.0


@pytest.fixture
def system(database: Database) -> System:
    return System(database)


@pytest.fixture
def webhook_id(database: Database) -> UUID:
    return register(database, URL)[0]


def take(database: Database, limit: int = 100) -> list[DeliverWebhook]:
    with database.begin() as connection:
        return deliveries.take_due(connection, limit=limit, lease_s=LEASE_S)[0]


def wake(database: Database) -> int:
    """Do as a worker does that has just begun; return how many were woken."""
    with database.begin() as connection:
        delivery_ids, _ = delivery_waking.to_wake(connection, None)
        delivery_waking.wake(connection, delivery_ids)
    return len(delivery_ids)


def finish_one(system: System, webhook_id: UUID) -> None:
    """Let a delivery be due."""
    webhook_helpers.finish_one(system, webhook_id)
    assert wake(system.database) == 1


def claim(database: Database, due: DeliverWebhook) -> ClaimedDelivery | None:
    with database.begin() as connection:
        return deliveries.claim(connection, due, lease_s=LEASE_S)


def record(database: Database, claimed: ClaimedDelivery, state: DeliveryState, **how: Any) -> bool:
    with database.begin() as connection:
        return deliveries.record(
            connection, claimed, state=state, **{"status": 500, "error": "status 500", **how}
        )


def failed(database: Database) -> ClaimedDelivery:
    """Let the one due delivery fail for good."""
    [due] = take(database)
    claimed = claim(database, due)
    assert claimed is not None
    assert record(database, claimed, DeliveryState.FAILED, failures=10)
    return claimed


def test_it_is_due_when_all_jobs_have_ended_in_whichever_way(system: System, webhook_id: UUID) -> None:
    database = system.database
    job_ids = system.queue(4, notice=Notice(webhook_id, Event.SUBMISSION_FINISHED))

    def taken() -> list[UUID]:
        make_due(database)
        return [due.webhook_id for due in take(database)]

    assert taken() == []
    one, two = system.claim(job_ids[:2])
    system.commit([success(one), Errored(two, "code", "why", is_retryable=False)])
    assert taken() == []  # two wait
    with database.begin() as connection:
        jobs.cancel(connection, job_ids[3:], actor="me")
    assert taken() == []  # one waits
    system.commit([success(claim) for claim in system.claim(job_ids[2:3])])
    assert taken() == [webhook_id]


def test_it_is_looked_at_as_soon_as_a_job_of_its_has_ended(system: System, webhook_id: UUID) -> None:
    database = system.database
    first, second = system.queue(2, notice=Notice(webhook_id, Event.SUBMISSION_FINISHED))
    system.queue(1, notice=Notice(webhook_id, Event.JOB_FINISHED))
    system.queue(1)

    def look() -> tuple[int, int]:
        """Return how many were woken, and how many of those can be made."""
        woken = wake(database)
        return woken, len(take(database))

    assert look() == (0, 0)
    system.commit([success(claim) for claim in system.claim([first])])
    assert look() == (1, 0)
    system.commit([success(claim) for claim in system.claim([second])])
    assert look() == (1, 1)
    assert look() == (0, 0)  # it waits no more


def test_what_was_woken_is_not_asked_for_again(system: System, webhook_id: UUID) -> None:
    database = system.database
    (job_id, _) = system.queue(2, notice=Notice(webhook_id, Event.SUBMISSION_FINISHED))
    with database.begin() as connection:
        jobs.cancel(connection, [job_id], actor="me")
    system.change([job_id], finished_at=db_now(-60.0))

    with database.read() as connection:
        after_a_pause, following = delivery_waking.to_wake(connection, None)
        then, _ = delivery_waking.to_wake(connection, following)

    assert len(after_a_pause) == 1  # a worker that has just begun looks back
    assert then == []


def test_what_is_unfinished_is_looked_at_the_less_often_the_older_it_is(
    system: System, webhook_id: UUID
) -> None:
    database = system.database
    system.queue(1, notice=Notice(webhook_id, Event.JOB_FINISHED))

    def pause_s(age_s: float) -> float:
        with database.begin() as connection:
            values = {"created_at": db_now(-age_s), "due_at": db_now(-1.0)}
            connection.execute(update(WebhookDelivery).values(values))
        assert take(database) == []
        with database.read() as connection:
            due_at, now = connection.execute(select(WebhookDelivery.due_at, db_now())).one()
        return float((due_at - now).total_seconds())

    assert [pause_s(age_s) for age_s in (0, 200, 1e6)] == pytest.approx([10, 200, 600], abs=8)


def test_what_was_published_is_due_again_when_its_lease_is_over(system: System, webhook_id: UUID) -> None:
    database = system.database
    finish_one(system, webhook_id)

    first = take(database)
    assert len(first) == 1
    assert take(database) == []
    make_due(database)
    assert take(database) == first


def test_two_who_look_at_once_take_each_once(system: System, webhook_id: UUID) -> None:
    database = system.database
    for _ in range(40):
        webhook_helpers.finish_one(system, webhook_id)
    assert wake(database) == 40
    taken: list[list[DeliverWebhook]] = []

    def look() -> None:
        while found := take(database, limit=3):
            taken.append(found)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    ids = [due.delivery_id for part in taken for due in part]
    assert len(ids) == len(set(ids)) == 40


def test_an_attempt_is_made_once_however_often_it_is_told_of(system: System, webhook_id: UUID) -> None:
    database = system.database
    finish_one(system, webhook_id)
    [due] = take(database)

    first, second = claim(database, due), claim(database, due)

    assert first is not None
    assert second is None
    assert record(database, first, DeliveryState.DELIVERED, status=200, error=None)
    assert claim(database, due.model_copy(update={"attempts": 1})) is None  # it has ended
    [row] = deliveries_of(database, webhook_id)
    assert (row.state, row.attempts, row.last_status, row.last_error) == ("delivered", 1, 200, None)


def test_who_wakes_up_late_cannot_overwrite_an_outcome(system: System, webhook_id: UUID) -> None:
    database = system.database
    finish_one(system, webhook_id)
    [due] = take(database)
    late = claim(database, due)
    make_due(database)  # its lease is over
    [due] = take(database)
    other = claim(database, due)
    assert late is not None
    assert other is not None

    assert record(database, other, DeliveryState.DELIVERED, status=204, error=None)
    assert not record(database, late, DeliveryState.FAILED, failures=1)
    [row] = deliveries_of(database, webhook_id)
    assert row.state == "delivered"


def test_who_wakes_up_after_a_replay_cannot_end_it(system: System, webhook_id: UUID) -> None:
    database = system.database
    finish_one(system, webhook_id)
    [due] = take(database)
    late = claim(database, due)
    assert late is not None
    make_due(database)
    failed(database)
    with database.begin() as connection:
        delivery_log.replay(connection, None, webhook_id)

    assert not record(database, late, DeliveryState.DELIVERED, status=200, error=None)
    [row] = deliveries_of(database, webhook_id)
    assert row.state == "pending"


def test_nothing_goes_to_a_disabled_webhook_until_it_is_enabled(system: System, webhook_id: UUID) -> None:
    database = system.database
    finish_one(system, webhook_id)
    [due] = take(database)
    with database.begin() as connection:
        webhooks.disable(connection, webhook_id, "it answered 410 Gone")

    assert claim(database, due) is None
    make_due(database)
    assert take(database) == []
    [row] = deliveries_of(database, webhook_id)
    assert (row.state, row.last_error) == ("pending", "the webhook is disabled: it answered 410 Gone")

    with database.begin() as connection:
        assert webhooks.enable(connection, None, webhook_id)
        deliveries.hurry(connection, webhook_id)
    assert take(database) == [due]


def test_a_replay_takes_what_has_ended(system: System, webhook_id: UUID) -> None:
    database = system.database
    finish_one(system, webhook_id)
    lost = failed(database)
    finish_one(system, webhook_id)
    [due] = take(database)
    done = claim(database, due)
    assert done is not None
    record(database, done, DeliveryState.DELIVERED, status=200, error=None)
    finish_one(system, webhook_id)
    [pending] = take(database)
    other, _ = register(database, URL, "another tenant")

    def replayed(**what: Any) -> list[UUID]:
        with database.begin() as connection:
            return delivery_log.replay(
                connection, what.pop("tenant", None), what.pop("of", webhook_id), **what
            )

    assert replayed(tenant="a stranger") == replayed(of=other) == []
    assert replayed() == [lost.delivery_id]
    assert replayed() == []
    assert replayed(delivery_ids=[done.delivery_id, pending.delivery_id]) == [done.delivery_id]
    [again] = [one for one in take(database) if one.delivery_id == lost.delivery_id]
    claimed = claim(database, again)
    assert claimed is not None
    assert (claimed.attempt, claimed.failures) == (2, 0)  # fresh attempts, the fence goes on
    record(database, claimed, DeliveryState.DELIVERED, status=200, error=None)
    with database.read() as connection:
        now = connection.execute(select(db_now())).scalar_one()
        far = connection.execute(select(db_now(-3600.0))).scalar_one()
    assert replayed(since=now) == []
    assert delivery_log.replay_all(database, None, webhook_id, since=far) == 1


def test_a_rotated_secret_signs_on_for_a_day(database: Database, webhook_id: UUID) -> None:
    def secrets() -> list[str]:
        with database.read() as connection:
            target = webhooks.target(connection, webhook_id)
        assert target is not None
        return list(target.secrets)

    [old] = secrets()
    with database.begin() as connection:
        new = webhooks.rotate(connection, None, webhook_id)
        assert webhooks.rotate(connection, "a stranger", webhook_id) is None
    assert secrets() == [new, old]

    with database.begin() as connection:
        until, now = connection.execute(select(Webhook.previous_until, db_now())).one()
        connection.execute(update(Webhook).values(previous_until=db_now(-0.001)))
    assert (until - now).total_seconds() == pytest.approx(86_400, abs=60)
    assert secrets() == [new]


def test_deliveries_go_with_their_submission_and_with_their_webhook(system: System, webhook_id: UUID) -> None:
    database = system.database
    finish_one(system, webhook_id)
    failed(database)
    other, _ = register(database, URL)
    finish_one(system, other)
    with database.begin() as connection:
        assert webhooks.remove(connection, None, other)
    assert deliveries_of(database, other) == []
    assert len(deliveries_of(database, webhook_id)) == 1

    with database.begin() as connection:
        assert retention.delete_old(connection, older_than_s=-60.0, limit=100) == 2
    assert deliveries_of(database, webhook_id) == []


def test_a_webhook_that_is_deleted_meanwhile_loses_nobodys_jobs(system: System, webhook_id: UUID) -> None:
    with system.database.begin() as connection:
        webhooks.remove(connection, None, webhook_id)

    job_ids = system.queue(2, notice=Notice(webhook_id, Event.SUBMISSION_FINISHED))

    assert system.states(job_ids) == ["queued"] * 2
    with system.database.read() as connection:
        assert connection.execute(select(func.count()).select_from(WebhookDelivery)).scalar_one() == 0


@contextmanager
def statements(database: Database) -> Iterator[list[str]]:
    seen: list[str] = []

    def note(_c: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    yield seen
    event.remove(database.engine, "before_cursor_execute", note)


def test_who_names_no_webhook_pays_no_statement(system: System, webhook_id: UUID) -> None:
    with statements(system.database) as without:
        system.commit([success(claim) for claim in system.claim(system.queue(1))])
    with statements(system.database) as with_one:
        webhook_helpers.finish_one(system, webhook_id)

    assert not [statement for statement in without if "webhook" in statement]
    assert len([statement for statement in with_one if "webhook" in statement]) == 2
    assert len(with_one) == len(without) + 2


def test_what_nobody_looks_at_is_noticed(system: System, webhook_id: UUID) -> None:
    system.queue(1, notice=Notice(webhook_id, Event.JOB_FINISHED))

    def overdue() -> int:
        with system.database.read() as connection:
            return delivery_log.overdue(connection, for_s=30.0)

    assert overdue() == 0
    with system.database.begin() as connection:
        connection.execute(update(WebhookDelivery).values(due_at=db_now(-31.0)))
    assert overdue() == 1
    take(system.database)
    assert overdue() == 0


def test_pages_follow_one_another(system: System, webhook_id: UUID) -> None:
    database = system.database
    for _ in range(5):
        webhook_helpers.finish_one(system, webhook_id)
    ids = [row.id for row in deliveries_of(database, webhook_id)][::-1]

    def page(after: UUID | None, **how: Any) -> list[UUID]:
        with database.read() as connection:
            asked = {"tenant": None, "webhook_id": webhook_id, "state": None, "limit": 3, **how}
            return [row.id for row in delivery_log.page(connection, after=after, **asked)]

    assert page(None) == ids[:3]
    assert page(ids[2]) == ids[3:]
    assert page(None, state=DeliveryState.FAILED) == []
    assert page(None, tenant="a stranger") == []
    assert page(None, webhook_id=uuid4()) == page(None, webhook_id=new_id()) == []
