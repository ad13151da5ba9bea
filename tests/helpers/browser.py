"""A real headless Chromium, driven by Selenium."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.expected_conditions import alert_is_present
from selenium.webdriver.support.wait import WebDriverWait

from tests.helpers.eventually import eventually

ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

_FILES_OF = """
const files = new DataTransfer();
for (const [name, kind, data] of arguments[0])
    files.items.add(new File([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))], name, {type: kind}));
"""
_DROP = """
for (const kind of ["dragenter", "dragover", "drop"])
    document.getElementById("drop").dispatchEvent(
        new DragEvent(kind, {dataTransfer: files, bubbles: true, cancelable: true}));
"""
_PASTE = """
document.body.dispatchEvent(
    new ClipboardEvent("paste", {clipboardData: files, bubbles: true, cancelable: true}));
"""
_NOTE_VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (one) => window.violations.push(one.violatedDirective));
"""
_FAINT_TEXTS = """
const luminance = (colour) => colour.match(/[\\d.]+/g).slice(0, 3)
    .map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
const ground = (e) => {
    const colour = getComputedStyle(e).backgroundColor;
    return colour !== "rgba(0, 0, 0, 0)" || !e.parentElement ? colour : ground(e.parentElement);
};
const contrast = (e) => {
    const [a, b] = [getComputedStyle(e).color, ground(e)].map(luminance).sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
};
return [...document.body.querySelectorAll("*:not(noscript *):not(template *)")]
    .filter((e) => e.checkVisibility() && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
    .filter((e) => contrast(e) < 4.5).map((e) => `${contrast(e).toFixed(2)} ${e.textContent}`);
"""


class Browser:
    """One window on one page of alexq's."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _NOTE_VIOLATIONS})

    def open(self, url: str) -> None:
        """Load the page."""
        self.driver.get(url)

    def size(self, width: int, height: int) -> None:
        """Set what is seen, in CSS pixels, as a telephone has it."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, **features: str) -> None:
        """Set media features: ``prefers_color_scheme="dark"``."""
        emulated = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": emulated})

    def drop(self, files: Mapping[str, bytes]) -> None:
        """Drop files on the page."""
        self.driver.execute_script(_FILES_OF + _DROP, _encoded(files))

    def paste(self, files: Mapping[str, bytes]) -> None:
        """Paste files into the page."""
        self.driver.execute_script(_FILES_OF + _PASTE, _encoded(files))

    def all(self, css: str) -> list[WebElement]:
        """Return the elements that match."""
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def texts(self, css: str) -> list[str]:
        """Return the text of the elements that match."""
        return [
            str(text).strip()
            for text in self.driver.execute_script(
                "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", css
            )
        ]

    def wait_for(self, css: str, count: int = 1, timeout_s: float = 150.0) -> None:
        """Wait until at least so many elements match."""
        eventually(lambda: len(self.all(css)) >= count, timeout_s, what=f"{count} × {css}: {self.text()}")

    def answer(self, *, yes: bool) -> str:
        """Answer the question that the page asks, when it does; return what it asks."""
        alert = WebDriverWait(self.driver, 60).until(alert_is_present())
        asked = str(alert.text)
        alert.accept() if yes else alert.dismiss()
        return asked

    def text(self) -> str:
        """Return what a person reads on the page."""
        return str(self.driver.execute_script("return document.body.innerText"))

    def faint_texts(self) -> list[str]:
        """Return texts whose contrast is under 4.5 (WCAG 2.2, 1.4.3, level AA), with their contrast."""
        return list(self.driver.execute_script(_FAINT_TEXTS))

    def picture(self, width: int, max_height: int | None = None) -> bytes:
        """Return the whole page, of this width, or its upper part, as a PNG."""
        height = int(self.driver.execute_script("return document.documentElement.scrollHeight"))
        self.size(width, height if max_height is None else min(height, max_height))
        return base64.b64decode(self.driver.execute_cdp_cmd("Page.captureScreenshot", {})["data"])

    def complaints(self) -> list[str]:
        """Return what the console holds against the page, and what its policy forbade."""
        log = [str(entry["message"]) for entry in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]
        return log + list(self.driver.execute_script("return window.violations"))


def _encoded(files: Mapping[str, bytes]) -> list[tuple[str, str, str]]:
    kinds = {".png": "image/png", ".jpg": "image/jpeg", ".txt": "text/plain"}
    return [(name, kinds[Path(name).suffix], base64.b64encode(data).decode()) for name, data in files.items()]


@contextmanager
def running_browser(profile: Path) -> Iterator[Browser]:
    """Run a Chromium with a new profile; where there is none, the test is skipped."""
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no Chromium: apt-get install chromium chromium-driver")
    options = ChromeOptions()
    options.binary_location = binary
    for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with Chrome(options, Service(driver)) as chrome:
        yield Browser(chrome)
