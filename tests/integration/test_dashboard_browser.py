"""The dashboard in a real browser: themes, a telephone, the keyboard, and pages that refresh themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from sqlalchemy import func, select

from alexq_schema.db.session import Database
from alexq_schema.db.tables import Job
from alexq_schema.images import open_image_store
from alexq_schema.settings import Settings
from tests.helpers.browser import Browser, running_browser
from tests.helpers.eventually import eventually
from tests.helpers.monitor import MonitorProcess, running_monitor
from tests.helpers.seeded import Seeded, seed
from tests.helpers.system import System

PAGES = ("/overview", "/results", "/submissions", "/batches", "/dead", "/models")


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """A browser does not see which database it is."""
    return sqlite_url


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with running_browser(tmp_path / "profile") as browser:
        yield browser


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Of the workers without a process, only the one that is to be silent is."""
    return settings.model_copy(update={"silent_after_s": 300.0})


@pytest.fixture
def seeded(database: Database, settings: Settings) -> Seeded:
    return seed(database, open_image_store(settings.images_url))


@pytest.fixture
def admin(settings: Settings, tmp_path: Path) -> Iterator[MonitorProcess]:
    settings = settings.model_copy(update={"monitor_admin": True})
    with running_monitor(settings, tmp_path / "monitor.log") as monitor:
        yield monitor


def scrolls_sideways(browser: Browser) -> bool:
    script = "return document.documentElement.scrollWidth > document.documentElement.clientWidth"
    return bool(browser.driver.execute_script(script))


def right_edge(browser: Browser, css: str) -> float:
    """Return where the elements that match end, in pixels from the left."""
    script = """
        const found = [...document.querySelectorAll(arguments[0])];
        return Math.max(...found.map((e) => e.getBoundingClientRect().right));
    """
    return float(browser.driver.execute_script(script, css))


def luminance(browser: Browser) -> float:
    """Return how light the page's ground is, 0 to 1."""
    script = "return getComputedStyle(document.body).backgroundColor.match(/[0-9.]+/g).slice(0, 3)"
    return sum(float(one) for one in browser.driver.execute_script(script)) / 765


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_page_is_right_in_both_themes_on_a_desk_and_on_a_telephone(
    seeded: Seeded, admin: MonitorProcess, browser: Browser, theme: str
) -> None:
    one = (
        f"/results/{seeded.job_ids['succeeded'][-1]}",
        f"/results/{seeded.job_ids['dead'][-1]}",
        f"/submissions/{seeded.submission_ids[-1]}",
    )
    browser.prefer(prefers_color_scheme=theme)
    for path in (*PAGES, *one, "/workers", "/tasks", "/broker"):
        for width in (1280, 390):
            browser.size(width, 844)
            browser.open(admin.url + path)
            assert len(browser.all(".app-nav .nav-link")) >= 9
            if not path.startswith(("/workers", "/tasks", "/broker")):
                assert not scrolls_sideways(browser), (path, width)
                assert browser.faint_texts() == [], (path, width)
            if path in ("/dead", "/submissions"):  # what matters is seen without scrolling a table
                assert right_edge(browser, "td:last-child") <= width, (path, width)
        assert (luminance(browser) > 0.5) == (theme == "light"), path
        assert browser.complaints() == [], path
    browser.open(admin.url + one[0])
    size = "return document.querySelector('.alexq-picture img').naturalWidth"
    assert eventually(lambda: browser.driver.execute_script(size)) == 480


def test_a_page_refreshes_itself_and_what_was_typed_and_focused_stays(
    database: Database, seeded: Seeded, admin: MonitorProcess, browser: Browser
) -> None:
    browser.open(f"{admin.url}/results?state=queued")
    (label,) = browser.all("input[name=label]")
    label.send_keys("tab")
    first = browser.all("tbody tr a")[5]
    kept = first.get_attribute("href")
    browser.driver.execute_script("arguments[0].focus({preventScroll: true})", first)

    (new,) = System(database).queue(1)
    browser.wait_for(f"tr[id='job-{new}']")

    assert browser.driver.switch_to.active_element.get_attribute("href") == kept
    assert first == browser.driver.switch_to.active_element  # the same element, not one like it
    assert label.get_attribute("value") == "tab"
    assert browser.complaints() == []


def test_what_is_focused_stays_so_when_other_rows_go_or_rows_change_places(
    database: Database, seeded: Seeded, admin: MonitorProcess, browser: Browser
) -> None:
    def focus(css: str) -> str:
        browser.driver.execute_script("document.querySelector(arguments[0]).focus()", css)
        return focused()

    def focused() -> str:
        return str(browser.driver.execute_script("return document.activeElement.closest('tr')?.id"))

    browser.open(f"{admin.url}/dead")
    rows = [row.get_attribute("id") or "" for row in browser.all("tr[id^='job-']")]
    kept = focus(f"tr[id='{rows[2]}'] button")
    System(database).redrive([UUID(rows[0].removeprefix("job-"))])
    eventually(lambda: not browser.all(f"tr[id='{rows[0]}']"))
    assert focused() == kept == rows[2]

    kept = focus("#group-worker_crashed button")
    assert browser.texts("tr[id^='group-'] a")[0] == "image_lost"
    System(database).redrive(error_code="image_lost", limit=20)
    eventually(lambda: browser.texts("tr[id^='group-'] a")[0] == "worker_crashed")
    assert focused() == kept == "group-worker_crashed"


def test_a_dashboard_that_is_gone_or_wants_a_login_is_said(
    seeded: Seeded, admin: MonitorProcess, browser: Browser
) -> None:
    browser.open(f"{admin.url}/overview")
    browser.wait_for(".status-dot-live")
    browser.driver.execute_script("history.replaceState(null, '', '/')")  # leads elsewhere, as to a login
    eventually(lambda: browser.texts("#alexq-status")[0].endswith(": log in again"))
    browser.driver.execute_script("history.replaceState(null, '', '/overview')")
    browser.wait_for(".status-dot-live")
    admin.process.kill()
    browser.wait_for(".status-dot-error")
    (said,) = browser.texts("#alexq-status")
    assert said.startswith("Not refreshed since ")
    assert said.endswith(": the dashboard does not answer")
    assert "gpu-1:4100" in browser.text()


def test_it_is_used_by_the_keyboard(seeded: Seeded, admin: MonitorProcess, browser: Browser) -> None:
    browser.size(1280, 844)
    browser.open(f"{admin.url}/overview")
    body = browser.all("body")[0]
    body.send_keys(Keys.TAB)
    assert "Skip to main content" in browser.driver.switch_to.active_element.text
    for _ in range(3):  # the brand, Overview, Results
        browser.driver.switch_to.active_element.send_keys(Keys.TAB)
    assert browser.driver.switch_to.active_element.text == "Results"
    browser.driver.switch_to.active_element.send_keys(Keys.ENTER)
    browser.wait_for("input[name=label]")
    (label,) = browser.all("input[name=label]")
    label.send_keys("daisy" + Keys.ENTER)
    eventually(lambda: set(browser.texts("tbody td:nth-child(3)")) == {"daisy"})
    assert "label=daisy" in browser.driver.current_url


def test_an_administrator_is_asked_before_it_is_done(
    database: Database, seeded: Seeded, admin: MonitorProcess, browser: Browser
) -> None:
    def dead() -> int:
        with database.read() as connection:
            statement = select(func.count()).select_from(Job).where(Job.state == "dead")
            return connection.execute(statement).scalar_one()

    browser.open(f"{admin.url}/dead")
    button = "form[data-confirm='Queue every dead job again?'] button"
    browser.all(button)[0].click()
    browser.answer(yes=False)
    assert dead() == 40
    browser.all(button)[0].click()
    browser.answer(yes=True)
    eventually(lambda: "40 jobs queued again." in browser.text())
    assert dead() == 0
    assert "dashboard:this machine" in browser.text()
    assert browser.complaints() == []


def test_a_double_click_acts_once(seeded: Seeded, admin: MonitorProcess, browser: Browser) -> None:
    """However slow the first answer is: the browser gives up on it, the dashboard does not."""
    sent = """
        const [form] = arguments, how = {cancelable: true, bubbles: true};
        return [1, 2].map(() => form.dispatchEvent(new SubmitEvent("submit", how)));
    """
    browser.open(f"{admin.url}/dead")
    assert browser.driver.execute_script(sent, browser.all("tr[id^='job-'] form")[0]) == [True, False]
    browser.open(f"{admin.url}/dead")
    ActionChains(browser.driver).double_click(browser.all("tr[id^='job-'] form button")[0]).perform()
    said = eventually(lambda: browser.texts("[role=status] p"))
    assert said == ["1 job queued again."]


def test_with_a_login_whoever_has_it_acts_and_nobody_else_sees_anything(
    settings: Settings, database: Database, seeded: Seeded, browser: Browser, tmp_path: Path
) -> None:
    def states(submission_id: UUID) -> set[str]:
        with database.read() as connection:
            statement = select(Job.state).where(Job.submission_id == submission_id)
            return set(connection.execute(statement).scalars())

    submission_id = seeded.submission_ids[-1]
    assert "queued" in states(submission_id)
    settings = settings.model_copy(update={"monitor_admin": True})
    env = {"FLOWER_BASIC_AUTH": "anna:secret"}
    with running_monitor(settings, tmp_path / "monitor.log", env) as monitor:
        browser.open(f"{monitor.url}/dead")
        assert browser.all("form") == []
        assert "image_lost" not in browser.text()

        browser.open(f"{monitor.url.replace('//', '//anna:secret@')}/dead")
        browser.driver.execute_script("document.getElementById('alexq-status').textContent = 'old'")
        eventually(lambda: browser.texts("#alexq-status")[0].startswith("Live, "))  # it refreshes itself
        browser.all("tr[id^='job-'] form button")[0].send_keys(Keys.ENTER)
        eventually(lambda: "1 job queued again." in browser.text())
        assert "dashboard:anna" in browser.text()

        browser.open(f"{monitor.url}/submissions/{submission_id}")
        browser.all("form[data-confirm] button")[0].send_keys(Keys.ENTER)
        browser.answer(yes=True)
        eventually(lambda: "jobs cancelled." in browser.text())
    assert not {"queued", "running"} & states(submission_id)


def test_a_submission_is_cancelled_after_a_question(
    seeded: Seeded, admin: MonitorProcess, browser: Browser
) -> None:
    browser.open(f"{admin.url}/submissions/{seeded.submission_ids[-1]}")
    browser.all("form[data-confirm] button")[0].send_keys(Keys.ENTER)
    assert "Cancel every job" in browser.answer(yes=True)
    eventually(lambda: "jobs cancelled." in browser.text())
    assert browser.all("form[data-confirm]") == []  # nothing is left to cancel
    assert browser.complaints() == []


def test_a_dead_worker_is_shown_as_silent(seeded: Seeded, admin: MonitorProcess, browser: Browser) -> None:
    browser.open(f"{admin.url}/overview")
    eventually(lambda: any("gpu-2:4102" in row and "silent" in row for row in browser.texts("tbody tr")))
    assert "fell silent without a goodbye" in browser.text()


def test_without_the_right_no_button_is_there(
    settings: Settings, seeded: Seeded, browser: Browser, tmp_path: Path
) -> None:
    with running_monitor(settings, tmp_path / "monitor.log") as monitor:
        for path in ("/dead", "/models", f"/submissions/{seeded.submission_ids[-1]}"):
            browser.open(monitor.url + path)
            assert browser.all("form[method=post]") == []
        browser.open(f"{monitor.url}/dead")
        assert "ALEXQ_MONITOR_ADMIN=true" in browser.text()


def test_an_empty_system_looks_right_too(admin: MonitorProcess, browser: Browser) -> None:
    browser.size(390, 844)
    for path in PAGES:
        browser.open(admin.url + path)
        assert "alexq" in browser.text() or "No job is dead" in browser.text(), path
        assert not scrolls_sideways(browser), path
        assert path == "/overview" or right_edge(browser, ".empty-table-message") <= 390, path
        assert browser.complaints() == [], path
