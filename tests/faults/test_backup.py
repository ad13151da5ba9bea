"""Backup and restore as docs/howto/backup.md has it: dump under load, lose all, restore, no job lost."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import pytest
import redis
import sqlalchemy
from sqlalchemy import select

from alexq_producer import Producer
from alexq_schema.db import queries
from alexq_schema.db.session import Database, sqlite_path
from alexq_schema.db.tables import Job as JobRow
from alexq_schema.job import Job, JobState
from alexq_schema.settings import Settings
from benchmarks.chaos.servers import PostgresBinaries
from tests.helpers.eventually import eventually
from tests.helpers.held import MAIN, Held
from tests.helpers.photos import distinct, encode, photo_crops
from tests.helpers.processes import WorkerProcess

JOBS = 60


@pytest.fixture
def backup() -> Iterator[Path]:
    """A folder that PostgreSQL's programs may write to."""
    folder = Path(tempfile.mkdtemp(prefix="alexq-backup-"))
    yield folder
    shutil.rmtree(folder)


def dump_database(url: str, folder: Path) -> None:
    if (path := sqlite_path(url)) is not None:
        with sqlite3.connect(path) as connection:
            connection.execute(f"VACUUM INTO '{folder / 'alexq.db'}'")
        connection.close()
        return
    programs = PostgresBinaries()
    programs.own(folder)
    programs.run("pg_dump", "--format=custom", f"--file={folder / 'alexq.dump'}", url)


def wipe_database(url: str) -> None:
    if (path := sqlite_path(url)) is not None:
        for file in path.parent.glob(f"{path.name}*"):
            file.unlink()
        return
    engine = sqlalchemy.create_engine(sqlalchemy.make_url(url).set(drivername="postgresql+psycopg"))
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA public")
    engine.dispose()


def restore_database(url: str, folder: Path) -> None:
    if (path := sqlite_path(url)) is not None:
        shutil.copy(folder / "alexq.db", path)
        return
    dump = str(folder / "alexq.dump")
    PostgresBinaries().run("pg_restore", "--no-owner", "--exit-on-error", f"--dbname={url}", dump)


def succeeded(url: str, submission_id: UUID) -> list[Job]:
    database = Database(url)
    try:
        with database.read() as connection:
            done = select(JobRow.id).where(
                JobRow.submission_id == submission_id, JobRow.state == JobState.SUCCEEDED
            )
            return queries.by_id(connection, list(connection.scalars(done)))
    finally:
        database.close()


def test_no_job_of_a_backup_is_lost(
    settings: Settings,
    client: redis.Redis,
    start_worker: Callable[..., WorkerProcess],
    backup: Path,
    tmp_path: Path,
) -> None:
    images = Path(urlsplit(settings.images_url).path)
    held = Held(tmp_path, after_jobs=40)  # if the dump has not come before
    busy = start_worker(program=held.program + MAIN, max_batch=2, decode_threads=1, unhealthy_after_s=600.0)
    with Producer(settings) as producer:
        submission = producer.submit(distinct([encode(crop) for crop in photo_crops(6)], JOBS))
        eventually(lambda: submission.counts().get(JobState.SUCCEEDED, 0) > 4, what="some are done")
        dump_database(settings.database_url, backup)
        subprocess.run(["cp", "-a", images, backup / "images"], check=True)
        busy.kill()
    wipe_database(settings.database_url)
    shutil.rmtree(images)
    client.flushall()

    subprocess.run(["cp", "-a", backup / "images", images], check=True)
    restore_database(settings.database_url, backup)
    with Producer(settings) as producer:
        restored = producer.submission(submission.id)
        known = {job.job_id: job for job in succeeded(settings.database_url, submission.id)}
        assert 0 < len(known) < JOBS, "the backup was taken in the midst of the work"
        start_worker()
        jobs = restored.wait(timeout_s=150)

    assert len(jobs) == JOBS
    assert {job.state for job in jobs} == {JobState.SUCCEEDED}
    assert {job.job_id: job for job in jobs if job.job_id in known} == known
