"""Who sees the dashboard, who acts through it, and who does not."""

from __future__ import annotations

import json
import re
import shutil
from base64 import b64encode
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from sqlalchemy import select
from tornado.web import create_signed_value

from alexq.stack.environment import environment
from alexq_schema.db.session import Database
from alexq_schema.db.tables import Job, JobEvent
from alexq_schema.images import open_image_store
from alexq_schema.models import ModelStore
from alexq_schema.settings import Settings
from tests.helpers import nursery
from tests.helpers.models import BASE, add_version
from tests.helpers.monitor import MonitorProcess, running_monitor
from tests.helpers.seeded import Seeded, seed

ACTIONS = {
    "/dead/redrive": {"which": "all"},
    "/submissions/{submission}/cancel": {},
    "/models/activate": {"model": BASE},
    "/models/rollback": {},
}


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Who is let in does not depend on the database."""
    return sqlite_url


@pytest.fixture
def seeded(database: Database, settings: Settings) -> Seeded:
    images = open_image_store(settings.images_url)
    return seed(database, images, succeeded=40, failed=10, dead=6, waiting=10)


@pytest.fixture
def admin(settings: Settings, seeded: Seeded, tmp_path: Path) -> Iterator[MonitorProcess]:
    settings = settings.model_copy(update={"monitor_admin": True})
    env = {"FLOWER_UNAUTHENTICATED_API": "true"}
    with running_monitor(settings, tmp_path / "monitor.log", env) as monitor:
        yield monitor


def states(database: Database) -> dict[str, int]:
    counted: dict[str, int] = {}
    with database.read() as connection:
        for state in connection.execute(select(Job.state)).scalars():
            counted[state] = counted.get(state, 0) + 1
    return counted


METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
FOR_PROGRAMS = ("/metrics", "/healthcheck")
FILES = {"/alexq-static/(.*)", "/static/(.*)", r"/(favicon\.ico)", r"/(robots\.txt)"}
OPEN = {*FOR_PROGRAMS, *FILES, "/login/?", "/logout", ".*"}
"""What asks nobody who they are; ``.*`` is the page that says that there is no such page."""

WALK = """
import json
from tornado.routing import RuleRouter
from alexq_monitor.app import build
from alexq_schema.settings import Settings

def walk(router):
    for rule in router.rules:
        if isinstance(rule.target, RuleRouter):
            yield from walk(rule.target)
        elif hasattr(rule.matcher, "regex"):
            yield rule.matcher.regex.pattern.removesuffix("$")

print(json.dumps(list(walk(build(Settings.load()).default_router))))
"""


def routes(settings: Settings, seeded: Seeded, folder: Path, env: Mapping[str, str]) -> dict[str, str]:
    """Return a path of every route, ours, Flower's and Tornado's, by its pattern without the prefix."""
    log = folder / "routes.log"
    walk = nursery.start(["-c", WALK], log=log, env={**environment(settings), **env}, of="alexq_monitor")
    assert walk.wait(150) == 0, log.read_text()
    prefix = "/" + env["FLOWER_URL_PREFIX"] if "FLOWER_URL_PREFIX" in env else ""
    found = {}
    for pattern in json.loads(log.read_text().splitlines()[-1]):
        known = seeded.submission_ids if "submissions" in pattern else seeded.job_ids["succeeded"]
        path = pattern.replace("|ndjson", "").removesuffix("/?")
        for anything in ("[^/]+", ".+", ".*"):
            path = path.replace(anything, str(known[0]))
        path = "/" + re.sub(r"[()\\]", "", path).lstrip("/")
        assert re.fullmatch(pattern, path), pattern
        found[pattern.removeprefix(prefix)] = path
    assert {"/results", "/tasks", "/api/tasks", "/dead/redrive", *OPEN} <= found.keys()
    return found


def test_without_a_login_nobody_gets_in_by_any_route(
    settings: Settings, seeded: Seeded, tmp_path: Path
) -> None:
    env = {"FLOWER_BASIC_AUTH": "me:secret,you:other"}
    forged = {"Cookie": f"_xsrf={'0' * 32}", "X-Xsrftoken": "0" * 32}  # a token is no login
    guessed, unlike_any = (
        {"Authorization": f"Basic {b64encode(one.encode()).decode()}"} for one in ("me:guess", "mé:sécret")
    )
    with running_monitor(settings, tmp_path / "monitor.log", env) as monitor:
        for pattern, path in routes(settings, seeded, tmp_path, env).items():
            if pattern in OPEN:
                continue
            for method in METHODS:
                for headers in (forged, forged | guessed, forged | unlike_any):
                    answer = monitor.client.request(method, path, headers=headers)
                    is_harmless = answer.status_code == 204 and method == "OPTIONS"
                    assert answer.status_code in (401, 405) or is_harmless, (method, path, headers)
                    assert "IMG_" not in answer.text
        right = monitor.client.get("/results", auth=("you", "other"))
        assert right.status_code == 200
        assert "IMG_" in right.text


def test_with_oauth_a_stranger_is_sent_to_the_login_and_who_is_known_acts(
    settings: Settings, database: Database, seeded: Seeded, tmp_path: Path
) -> None:
    env = {
        "FLOWER_AUTH": ".*@example.com",
        "FLOWER_AUTH_PROVIDER": "flower.views.auth.GithubLoginHandler",
        "FLOWER_COOKIE_SECRET": "of this test",
        "FLOWER_URL_PREFIX": "see",
    }
    anna, eve = (
        {"Cookie": f"user={create_signed_value('of this test', 'user', name).decode()}"}
        for name in ("anna@example.com", "eve@evil.example")
    )
    settings = settings.model_copy(update={"monitor_admin": True})
    with running_monitor(settings, tmp_path / "monitor.log", env) as monitor:
        for pattern, path in routes(settings, seeded, tmp_path, env).items():
            if pattern in OPEN:
                continue
            for method in METHODS:
                answer = monitor.client.request(method, path)
                is_harmless = answer.status_code == 204 and method == "OPTIONS"
                assert answer.status_code in (302, 403, 405) or is_harmless, (method, path)
                if answer.status_code == 302:
                    assert answer.headers["location"].startswith("/see/login?next="), path
                    assert method in ("GET", "HEAD")
        assert monitor.get("/see/results", **eve).status_code == 302
        assert "IMG_" in monitor.get("/see/results", **anna).text
        for path, data in ACTIONS.items():
            path = f"/see{path}".format(submission=seeded.submission_ids[-1])
            assert monitor.client.post(path, data=data, headers=anna).status_code == 403, path
        token = "0" * 32
        acts = {"Cookie": f"{anna['Cookie']}; _xsrf={token}", "X-Xsrftoken": token}
        done = monitor.client.post("/see/dead/redrive", data={"which": "all"}, headers=acts)
        assert done.headers["location"].startswith("/see/dead?redriven=")
    with database.read() as connection:
        record = set(connection.execute(select(JobEvent.actor).where(JobEvent.kind == "redriven")).scalars())
    assert record == {"dashboard:anna@example.com"}


@pytest.mark.parametrize(
    ("provider", "leads_to"),
    [
        ("GoogleAuth2LoginHandler", "https://accounts.google.com/"),
        ("GithubLoginHandler", "https://github.com/"),
        ("GitLabLoginHandler", "https://gitlab.com/"),
        ("OktaLoginHandler", "https://okta.example/v1/authorize?"),
    ],
)
def test_each_of_flowers_oauth_providers_is_led_to(
    settings: Settings, tmp_path: Path, provider: str, leads_to: str
) -> None:
    env = {
        "FLOWER_AUTH": "anna@example.com",
        "FLOWER_AUTH_PROVIDER": f"flower.views.auth.{provider}",
        "FLOWER_OAUTH2_KEY": "our-client",
        "FLOWER_OAUTH2_SECRET": "our-secret",
        "FLOWER_OAUTH2_REDIRECT_URI": "http://localhost:5555/login",
        "FLOWER_OAUTH2_OKTA_BASE_URL": "https://okta.example",
    }
    with running_monitor(settings, tmp_path / "monitor.log", env) as monitor:
        location = monitor.get("/login").headers["location"]
    assert location.startswith(leads_to)
    assert "client_id=our-client" in location
    assert "our-secret" not in location


def test_everything_is_below_the_prefix(settings: Settings, seeded: Seeded, tmp_path: Path) -> None:
    with running_monitor(settings, tmp_path / "monitor.log", {"FLOWER_URL_PREFIX": "/see/"}) as monitor:
        assert monitor.get("/see/").headers["location"] == "/see/overview"
        for path in ("overview", "results", "submissions", "batches", "dead", "models", "workers"):
            assert monitor.get(f"/{path}").status_code == 404
            html = monitor.get(f"/see/{path}").text
            urls = re.findall(r'(?:href|src|action)="(/[^"]*)"', html)
            assert urls
            assert all(url.startswith("/see/") for url in urls), path
            for url in {url for url in urls if "static" in url}:
                assert monitor.get(url).status_code == 200, url


def test_a_dashboard_that_only_shows_offers_and_allows_no_action(
    settings: Settings, database: Database, seeded: Seeded, tmp_path: Path
) -> None:
    before = states(database)
    active = ModelStore(settings.models_dir).active_ref()
    env = {"FLOWER_UNAUTHENTICATED_API": "true"}
    with running_monitor(settings, tmp_path / "monitor.log", env) as monitor:
        for page in ("/dead", "/models", f"/submissions/{seeded.submission_ids[-1]}"):
            assert '<form method="post"' not in monitor.get(page).text
        monitor.get("/dead")
        token = {"_xsrf": monitor.client.cookies["_xsrf"]}
        for path, data in ACTIONS.items():
            path = path.format(submission=seeded.submission_ids[-1])
            answer = monitor.client.post(path, data={**data, **token})
            assert answer.status_code == 403, path
            assert "ALEXQ_MONITOR_ADMIN=true" in answer.text
        flowers = monitor.client.post("/api/worker/shutdown/somebody")
        assert flowers.status_code == 403
        assert (
            monitor.get("/results", Origin="https://elsewhere").headers.get("access-control-allow-origin")
            is None
        )
    assert states(database) == before
    assert ModelStore(settings.models_dir).active_ref() == active


def test_an_administrator_redrives_one_a_group_and_all_and_it_is_on_record(
    admin: MonitorProcess, database: Database, seeded: Seeded
) -> None:
    one = seeded.job_ids["dead"][0]
    done = admin.post("/dead/redrive", {"which": "one", "job": str(one)}, "/dead")
    assert (done.status_code, done.headers["location"]) == (303, "/dead?redriven=1")
    assert "1 job queued again." in admin.get(done.headers["location"]).text
    assert states(database)["dead"] == 5

    group = admin.post("/dead/redrive", {"which": "code", "code": "image_lost"}, "/dead")
    left = states(database)["dead"]
    assert group.headers["location"] == f"/dead?redriven={5 - left}"
    admin.post("/dead/redrive", {"which": "all"}, "/dead")
    assert "dead" not in states(database)
    with database.read() as connection:
        record = connection.execute(select(JobEvent.actor).where(JobEvent.kind == "redriven")).scalars().all()
    assert record == 6 * ["dashboard:this machine"]
    assert "dashboard:this machine" in admin.get("/dead").text


def test_an_administrator_redrives_one_submission_s_and_no_other(
    admin: MonitorProcess, database: Database, seeded: Seeded
) -> None:
    with database.read() as connection:
        dead = connection.execute(select(Job.id, Job.submission_id).where(Job.state == "dead"))
        of = {row.id: row.submission_id for row in dead}
    submission = of[seeded.job_ids["dead"][0]]
    its, others = (
        [job for job, one in of.items() if (one == submission) is wanted] for wanted in (True, False)
    )
    page = admin.get(f"/dead?submission={submission}").text
    assert all(f"job-{job}" in page for job in its)
    assert not any(f"job-{job}" in page for job in others)
    done = admin.post("/dead/redrive", {"which": "all", "submission": str(submission)}, "/dead")
    assert done.headers["location"] == f"/dead?submission={submission}&redriven={len(its)}"
    assert states(database)["dead"] == len(others)


def test_the_record_names_who_logged_in(
    settings: Settings, database: Database, seeded: Seeded, tmp_path: Path
) -> None:
    settings = settings.model_copy(update={"monitor_admin": True})
    env = {"FLOWER_BASIC_AUTH": "anna:secret"}
    with running_monitor(settings, tmp_path / "monitor.log", env) as monitor:
        monitor.client.auth = ("anna", "secret")
        assert monitor.post("/dead/redrive", {"which": "all"}, "/dead").status_code == 303
    with database.read() as connection:
        record = set(connection.execute(select(JobEvent.actor).where(JobEvent.kind == "redriven")).scalars())
    assert record == {"dashboard:anna"}


def test_an_administrator_cancels_a_submission(
    admin: MonitorProcess, database: Database, seeded: Seeded
) -> None:
    page = f"/submissions/{seeded.submission_ids[-1]}"
    done = admin.post(f"{page}/cancel", {}, page)
    number = states(database)["cancelled"]
    assert done.headers["location"] == f"{page}?cancelled={number}"
    assert number + states(database).get("queued", 0) == 10
    with database.read() as connection:
        theirs = select(Job.state).where(Job.submission_id == seeded.submission_ids[-1])
        assert "queued" not in connection.execute(theirs).scalars().all()
        record = select(JobEvent.actor).where(JobEvent.kind == "cancelled")
        assert connection.execute(record).scalars().all() == number * ["dashboard:this machine"]
    assert f"{number} jobs by dashboard:this machine" in admin.get(page).text
    assert admin.post(f"{page}/cancel", {}, "/dead").headers["location"] == f"{page}?cancelled=0"


def test_an_administrator_activates_a_model_that_is_whole(admin: MonitorProcess, settings: Settings) -> None:
    store = ModelStore(settings.models_dir)
    before = store.active_ref()
    assert before is not None
    other = add_version(store, "other")
    try:
        assert admin.post("/models/activate", {"model": other}, "/dead").status_code == 303
        assert store.active_ref() == other
        assert admin.post("/models/activate", {"model": "../../etc"}, "/dead").status_code == 409
        assert admin.post("/models/activate", {"model": "alexnet/no-such"}, "/dead").status_code == 409
        assert store.active_ref() == other
        shown = admin.get("/models").text
        assert f"Roll back to {before}" in shown
        assert "dashboard:this machine" in shown
        assert admin.post("/models/rollback", {}, "/dead").status_code == 303
        assert store.active_ref() == before
        assert [one.actor for one in store.history()[-2:]] == 2 * ["dashboard:this machine"]
    finally:
        store.activate(before)
        shutil.rmtree(store.folder(other))


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Host": "evil.example"},
        {"Host": "evil.example", "Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"},
    ],
)
def test_a_page_of_another_site_cannot_act_even_with_the_token(
    admin: MonitorProcess, database: Database, headers: dict[str, str]
) -> None:
    answer = admin.post("/dead/redrive", {"which": "all"}, "/dead", **headers)
    assert answer.status_code == 403
    assert states(database)["dead"] == 6
    assert admin.client.post("/api/task/revoke/x", headers=headers).status_code == 403
    assert admin.client.post("/api/task/revoke/x").status_code == 200


def test_nothing_is_done_without_the_token(admin: MonitorProcess, database: Database, seeded: Seeded) -> None:
    for path, data in ACTIONS.items():
        path = path.format(submission=seeded.submission_ids[-1])
        assert admin.client.post(path, data=data).status_code == 403, path
        old = admin.client.post(path, data={**data, "_xsrf": "guess"})
        assert old.status_code == 403, path
        assert "Nothing was done" in old.text
        assert "Back to " in old.text
    assert states(database)["dead"] == 6


def test_a_name_that_leads_here_from_elsewhere_reads_nothing(
    admin: MonitorProcess, seeded: Seeded, tmp_path: Path
) -> None:
    for pattern, path in routes(admin.settings, seeded, tmp_path, {}).items():
        if pattern in FOR_PROGRAMS:
            continue
        for method in METHODS:
            answer = admin.client.request(method, path, headers={"Host": "evil.example"})
            assert answer.status_code == 403, (method, path)
            assert "IMG_" not in answer.text
    for name in ("localhost:80", "[::1]:80", "127.0.0.1"):
        assert admin.get("/overview", Host=name).status_code == 200
        assert admin.get("/tasks", Host=name).status_code == 200
    for path in FOR_PROGRAMS:
        assert admin.get(path, Host="evil.example").status_code == 200
