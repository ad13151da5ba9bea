"""Idempotency keys in the database: claimed with their submission, or not at all."""

from __future__ import annotations

import threading
from uuid import UUID

import pytest
from sqlalchemy import delete, func, select, update

from alexq_schema.db import accept, idempotency, retention
from alexq_schema.db.accept import NewJob, NewSubmission
from alexq_schema.db.clock import db_now
from alexq_schema.db.idempotency import Claim, IdempotencyKey
from alexq_schema.db.session import Database
from alexq_schema.db.tables import Job, Submission
from alexq_schema.ids import new_id
from alexq_schema.names import Lane


def submit(database: Database, key: str, *, tenant: str = "shop", fails: bool = False) -> UUID | None:
    """Insert a submission with its key; return its id if it got the key."""
    submission = NewSubmission(new_id(), [NewJob(new_id(), "a.jpg", "a" * 64, 3)], Lane.BULK, tenant=tenant)
    claim = Claim(tenant, key, "f" * 64, submission.submission_id)
    with database.begin() as connection:
        taken = idempotency.claim(connection, [claim])
        if taken:
            accept.add(connection, [submission])
        if fails:
            raise RuntimeError("killed")
    return submission.submission_id if taken else None


def count(database: Database, table: type[Submission] | type[IdempotencyKey]) -> int:
    with database.read() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def test_a_key_is_its_first_submissions_until_it_expires(database: Database) -> None:
    first = submit(database, "k")
    assert first is not None
    assert submit(database, "k") is None
    assert submit(database, "k", tenant="other shop") is not None

    with database.begin() as connection:
        connection.execute(update(IdempotencyKey).values(expires_at=db_now(-1)))
        assert idempotency.find(connection, "shop", "k") is None
    assert submit(database, "k") not in (None, first)


def test_a_key_and_its_submission_are_there_together_or_not_at_all(database: Database) -> None:
    with pytest.raises(RuntimeError, match="killed"):
        submit(database, "k", fails=True)

    assert count(database, IdempotencyKey) == count(database, Submission) == 0
    assert submit(database, "k") is not None


def test_many_who_claim_one_key_at_once_make_one_submission(database: Database) -> None:
    got: list[UUID | None] = []
    threads = [threading.Thread(target=lambda: got.append(submit(database, "k"))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(got) == 12
    assert len([one for one in got if one]) == count(database, Submission) == 1


def test_retention_takes_keys_that_expired_and_those_of_deleted_submissions(database: Database) -> None:
    submit(database, "expired")
    gone = submit(database, "deleted")
    submit(database, "kept")
    with database.begin() as connection:
        connection.execute(
            update(IdempotencyKey).where(IdempotencyKey.key == "expired").values(expires_at=db_now(-1))
        )
        connection.execute(delete(Job).where(Job.submission_id == gone))
        retention.delete_old(connection, older_than_s=-1, limit=100)
        idempotency.delete_expired(connection, limit=100)

    with database.read() as connection:
        assert list(connection.execute(select(IdempotencyKey.key)).scalars()) == ["kept"]
