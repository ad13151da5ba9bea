"""A tenant's list of jobs, page by page, while others and the tenant itself hand in more."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from alexq_schema.db import accept, pages
from alexq_schema.db.accept import NewJob, NewSubmission
from alexq_schema.db.pages import JobFilter, Place
from alexq_schema.db.session import Database
from alexq_schema.ids import new_id
from alexq_schema.job import JobState
from alexq_schema.names import Lane
from alexq_schema.settings import Settings
from tests.helpers.gateway import JPEG, make_key, running_gateway
from tests.helpers.photos import encode, photo_crops
from tests.helpers.system import System, success

SIZES = (1, 4, 3, 1, 7, 2)


def hand_in(database: Database, tenant: str | None, count: int) -> list[Place]:
    submission_id = new_id()
    jobs = [NewJob(new_id(), f"{number}.jpg", "a" * 64, 3) for number in range(count)]
    with database.begin() as connection:
        accept.add(connection, [NewSubmission(submission_id, jobs, Lane.BULK, tenant=tenant)])
    return [Place(submission_id, job.job_id) for job in jobs]


def walk(database: Database, tenant: str | None, wanted: JobFilter, *, limit: int = 3) -> list[Place]:
    """Read all pages; before each but the first, everyone hands in more."""
    found: list[Place] = []
    page: list[Place] = []
    while True:
        with database.read() as connection:
            page = pages.jobs(connection, tenant, wanted, after=page[-1] if page else None, limit=limit)
        if not page:
            return found
        found += page
        for other in ("shop", "other", None):
            hand_in(database, other, 2)


@pytest.fixture
def places(database: Database) -> list[Place]:
    """The shop's jobs in the order of the list; others' lie between them."""
    handed_in: list[list[Place]] = []
    for size in SIZES:
        handed_in.append(hand_in(database, "shop", size))
        hand_in(database, "other", size)
        hand_in(database, None, size)
    return [place for one in reversed(handed_in) for place in reversed(one)]


def test_every_job_is_in_one_page_while_more_come(database: Database, places: list[Place]) -> None:
    assert walk(database, "shop", JobFilter()) == places
    assert walk(database, "nobody", JobFilter()) == []


def test_filters_keep_the_order(database: Database, places: list[Place]) -> None:
    system = System(database)
    done = places[::2]
    system.commit([success(claim) for claim in system.claim([place.job_id for place in done])])
    now = datetime.now(UTC)
    one = places[5].submission_id

    def of(wanted: JobFilter) -> list[Place]:
        return [place for place in walk(database, "shop", wanted) if place in places]

    assert of(JobFilter(state=JobState.SUCCEEDED)) == done
    assert of(JobFilter(state=JobState.QUEUED)) == places[1::2]
    assert of(JobFilter(label="tabby")) == done
    assert of(JobFilter(label="no such label")) == []
    assert of(JobFilter(model=("alexnet", "test"))) == done
    assert of(JobFilter(submission_id=one)) == [place for place in places if place.submission_id == one]
    assert of(JobFilter(created_after=now - timedelta(hours=1), label="tabby")) == done
    assert of(JobFilter(created_before=now - timedelta(hours=1))) == []


def test_without_tenants_the_list_has_everybodys_jobs(database: Database, places: list[Place]) -> None:
    found = [place.job_id for place in walk(database, None, JobFilter(), limit=10)]

    assert set(found) >= {place.job_id for place in places}
    assert found == sorted(set(found), reverse=True)


def test_a_cursor_leads_on_over_http_and_is_its_tenants(settings: Settings, tmp_path: Path) -> None:
    photograph = encode(photo_crops(1)[0])
    files = [("images", (f"{number}.jpg", photograph)) for number in range(3)]
    shop, other = (make_key(settings, tenant) for tenant in ("shop", "other"))
    with running_gateway(settings, tmp_path / "gateway.log") as gateway, gateway.client(shop) as client:
        client.post("/v1/submissions", files=files)
        client.post("/v1/jobs", content=photograph, headers=JPEG)
        newest_first = [job["job_id"] for job in client.get("/v1/jobs").json()["jobs"]]
        found, page = [], client.get("/v1/jobs?limit=2")
        cursor = page.json()["next_cursor"]
        found += page.json()["jobs"]
        found += client.get(page.links["next"]["url"]).json()["jobs"]
        with gateway.client(other) as of_another:
            assert of_another.get("/v1/jobs", params={"cursor": cursor}).json()["jobs"] == []
        refused = client.get("/v1/jobs", params={"cursor": UUID(int=1).hex})

    assert [job["job_id"] for job in found] == newest_first
    assert len(newest_first) == 4
    assert (refused.status_code, refused.json()["code"]) == (422, "request_invalid")
