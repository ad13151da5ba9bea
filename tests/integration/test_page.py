"""The page at ``/`` in a real browser, on a real gateway and a real worker."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import httpx2
import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from alexq_schema.db.session import Database
from alexq_schema.keys import Scope
from alexq_schema.settings import Settings
from alexq_schema.work import Failed
from tests.helpers.browser import Browser, running_browser
from tests.helpers.eventually import eventually
from tests.helpers.gateway import GatewayProcess, make_key
from tests.helpers.photos import encode, photo_crops
from tests.helpers.processes import WorkerProcess
from tests.helpers.system import System, success

PICTURES = {f"picture {n}.jpg": encode(crop) for n, crop in enumerate(photo_crops(2), start=1)}
TEXT = {"notes.txt": b"This is no picture.\n"}
DONE = '.card[data-state="succeeded"]'
REFUSED = '.card[data-state="refused"]'
QUEUED = '.card[data-state="queued"]'

StartWorker = Callable[..., WorkerProcess]


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """The page does not know which database it is."""
    return sqlite_url


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"dashboard_url": "https://dashboard.example/?a=1&b=2"})


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with running_browser(tmp_path / "profile") as browser:
        yield browser


def scrolls_sideways(browser: Browser) -> bool:
    script = "return document.documentElement.scrollWidth > document.documentElement.clientWidth"
    return bool(browser.driver.execute_script(script))


def ground(browser: Browser) -> str:
    script = "return getComputedStyle(document.body).backgroundColor"
    return str(browser.driver.execute_script(script))


def test_pictures_go_in_and_five_labels_each_come_out(
    gateway: GatewayProcess, browser: Browser, start_worker: StartWorker, tmp_path: Path
) -> None:
    browser.open(gateway.url)
    assert "Nothing yet" in browser.text()

    browser.drop(PICTURES | TEXT)
    browser.wait_for(REFUSED)
    browser.wait_for(QUEUED, 2)
    eventually(lambda: "No worker is running" in browser.text(), what="it says that no worker runs")
    start_worker()
    browser.wait_for(DONE, 2)

    assert sorted(browser.texts(f"{DONE} h3")) == sorted(PICTURES)
    assert len(browser.all(f"{DONE} .labels li")) == 10
    for share in browser.texts(f"{DONE} .value"):
        assert re.fullmatch(r"<?\d+(\.\d)?%", share)
    assert all(
        browser.driver.execute_script(
            "return [...document.querySelectorAll('.fill')].map((e) => e.getBoundingClientRect().width > 0)"
        )
    )
    [refusal] = browser.texts(f"{REFUSED} .error")
    assert refusal.startswith("notes.txt:")
    assert "JPEG" in refusal
    eventually(lambda: "3 of 3 done" in browser.text(), what="the summary")
    eventually(lambda: "No worker" not in browser.text(), what="it sees the worker at its next look")
    eventually(lambda: "picture" in browser.texts("#announcer")[0], what="results are announced")
    dashboard, api = (link.get_attribute("href") for link in browser.all("nav a"))
    assert (dashboard, api) == ("https://dashboard.example/?a=1&b=2", f"{gateway.url}/openapi.json")
    job_url = browser.all(f"{DONE} a.json")[0].get_attribute("href")
    assert job_url is not None
    assert httpx2.get(job_url, trust_env=False).json()["state"] == "succeeded"

    for name, data in PICTURES.items():  # the same through the file input
        (tmp_path / name).write_bytes(data)
    browser.all("#files")[0].send_keys("\n".join(str(tmp_path / name) for name in PICTURES))
    browser.wait_for(DONE, 4)
    browser.paste({"image.png": encode(photo_crops(3)[2], "PNG")})
    browser.wait_for(DONE, 5)
    browser.prefer(prefers_reduced_motion="reduce")  # colours change at once
    assert browser.faint_texts() == []
    browser.prefer(prefers_color_scheme="dark", prefers_reduced_motion="reduce")
    assert browser.faint_texts() == []
    are_loaded = "return [...document.querySelectorAll('.card img')].every((e) => e.complete)"
    eventually(lambda: browser.driver.execute_script(are_loaded), what="every picture is shown")

    assert browser.complaints() == []


def test_a_picture_is_seen_to_wait_to_run_and_to_be_done(
    gateway: GatewayProcess, browser: Browser, database: Database
) -> None:
    system = System(database)
    browser.open(gateway.url)
    browser.drop(PICTURES)
    browser.wait_for(QUEUED, 2)
    with gateway.client() as client:
        last, first = (job["job_id"] for job in client.get("/v1/jobs").json()["jobs"])

    [claim] = system.claim([UUID(last)])
    browser.wait_for('.card[data-state="running"]')
    assert browser.texts('.card[data-state="running"] h3') == ["picture 2.jpg"]
    system.commit([success(claim, "tabby <b>")])
    browser.wait_for(DONE)
    assert browser.texts(f"{DONE} .labels .name") == ["tabby <b>"]
    assert browser.texts(f"{QUEUED} h3") == ["picture 1.jpg"]
    [claim] = system.claim([UUID(first)])
    system.commit([Failed(claim, "image_corrupt", "picture 1.jpg: the JPEG is corrupt")])
    browser.wait_for('.card[data-state="failed"]')
    assert browser.texts('.card[data-state="failed"] .error') == ["picture 1.jpg: the JPEG is corrupt"]
    assert browser.complaints() == []


def test_the_keyboard_alone_is_enough(gateway: GatewayProcess, browser: Browser) -> None:
    browser.open(gateway.url)
    browser.drop(PICTURES)
    browser.wait_for(QUEUED, 2)
    seen = []
    for _ in range(8):
        ActionChains(browser.driver).send_keys(Keys.TAB).perform()
        focused = browser.driver.switch_to.active_element
        outlined = browser.driver.execute_script(
            "const e = arguments[0].id === 'files' ? arguments[0].nextElementSibling : arguments[0];"
            "return getComputedStyle(e).outlineStyle",
            focused,
        )
        seen.append((focused.get_attribute("id") or focused.text, outlined))
    assert ("files", "solid") in seen
    assert ("clear", "solid") in seen
    assert {outline for name, outline in seen if name not in ("", "html")} <= {"solid", "none"}

    browser.all("#clear")[0].send_keys(Keys.ENTER)
    eventually(lambda: not browser.all(".card"), what="the results are cleared")
    assert browser.driver.switch_to.active_element.get_attribute("id") == "files"
    assert browser.complaints() == []


def test_it_fits_a_telephone_and_the_dark(gateway: GatewayProcess, browser: Browser) -> None:
    browser.size(390, 844)
    browser.open(gateway.url)
    light = ground(browser)
    browser.drop({f"{'a long name ' * 20}.jpg": PICTURES["picture 1.jpg"]} | TEXT)
    browser.wait_for(QUEUED)
    browser.wait_for(REFUSED)
    assert not scrolls_sideways(browser)
    assert browser.faint_texts() == []

    browser.prefer(prefers_color_scheme="dark", prefers_reduced_motion="reduce")
    assert ground(browser) != light
    assert not scrolls_sideways(browser)
    assert browser.faint_texts() == []
    assert browser.complaints() == []


def test_two_hundred_pictures_with_one_name_each_get_their_result(
    gateway: GatewayProcess, browser: Browser, start_worker: StartWorker
) -> None:
    start_worker()
    browser.open(gateway.url)
    small = [encode(crop, quality=60) for crop in photo_crops(4, (160, 120))]
    script = """
    const [pictures, count] = arguments, files = new DataTransfer();
    const bytes = (n) => Uint8Array.from(atob(pictures[n % 4]), (c) => c.charCodeAt(0));
    for (let n = 0; n < count; n += 1)
        files.items.add(new File([n % 50 ? bytes(n) : "no"], 'a "quoted" näme.jpg', {type: "image/jpeg"}));
    document.dispatchEvent(new DragEvent("drop", {dataTransfer: files, bubbles: true, cancelable: true}));
    """
    browser.driver.execute_script(script, [base64.b64encode(one).decode() for one in small], 200)
    browser.wait_for(DONE, 196, 300)
    assert len(browser.all(REFUSED)) == 4
    refused = browser.driver.execute_script(
        "return [...document.querySelectorAll('.card')]"
        ".flatMap((card, n) => card.dataset.state === 'refused' ? n : [])"
    )
    assert refused == [0, 50, 100, 150]
    assert browser.complaints() == []


def test_a_gateway_that_goes_and_comes_back_is_waited_for(
    gateway: GatewayProcess, browser: Browser, start_worker: StartWorker
) -> None:
    browser.open(gateway.url)
    browser.drop({"picture 1.jpg": PICTURES["picture 1.jpg"]})
    browser.wait_for(QUEUED)
    gateway.kill()
    browser.drop({"picture 2.jpg": PICTURES["picture 2.jpg"]})
    eventually(lambda: "does not answer" in browser.text(), what="it says that the gateway is gone")
    start_worker()
    gateway.start()
    browser.wait_for(DONE, 2)
    eventually(lambda: "does not answer" not in browser.text(), what="it is back")
    with gateway.client() as client:
        assert len(client.get("/v1/jobs").json()["jobs"]) == 2


def test_a_gateway_with_keys_asks_for_one_and_says_what_is_wrong_with_it(
    gateway: GatewayProcess, settings: Settings, browser: Browser, start_worker: StartWorker
) -> None:
    key = make_key(settings, "shop", Scope.SUBMIT, Scope.READ)
    start_worker()
    browser.open(gateway.url)
    eventually(lambda: "needs an API key" in browser.text(), what="it asks for a key")
    browser.drop(PICTURES)

    field = browser.all("#key")[0]
    assert browser.driver.switch_to.active_element == field
    field.send_keys(key[:-1] + "\n")
    eventually(lambda: "mistyped" in browser.text(), what="it says that the key is wrong")
    field.send_keys(key + "\n")
    browser.wait_for(DONE, 2)

    assert not field.is_displayed()
    assert key not in str(
        browser.driver.execute_script("return JSON.stringify([sessionStorage, localStorage])")
    )
    browser.all(f"{DONE} a.json")[0].click()  # a link could not send the key
    eventually(lambda: len(browser.driver.window_handles) == 2, what="a window opens")
    browser.driver.switch_to.window(browser.driver.window_handles[-1])
    eventually(lambda: '"state": "succeeded"' in browser.text(), what="the job's JSON")


def test_its_files_are_kept_apart_from_everything_else(gateway: GatewayProcess) -> None:
    with gateway.client() as client:
        page = client.get("/")
        again = client.get("/", headers={"If-None-Match": page.headers["etag"]})
        paths = re.findall(r'(?:src|href)="(/page/[^"]+)"', page.text)
        files = [client.get(path) for path in paths]
        posted = client.post("/")
        missing = client.get("/page/nothing.js")
        head = client.head("/")

    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
    assert (again.status_code, again.content) == (304, b"")
    assert len(set(paths)) == 3
    for file in files:
        assert (file.status_code, file.headers["x-content-type-options"]) == (200, "nosniff")
        assert file.headers["referrer-policy"] == "no-referrer"
    assert (head.status_code, head.content) == (200, b"")
    assert (posted.status_code, posted.headers["allow"]) == (405, "GET, HEAD")
    assert missing.json()["code"] == "route_not_found"
    assert 'href="https://dashboard.example/?a=1&amp;b=2"' in page.text
    assert not re.search(
        r"https?://(?!dashboard\.example|www\.w3\.org)", page.text + "".join(f.text for f in files)
    )
