"""Flower's templates with our tabs in its navigation bar, and our pages beside its own.

Flower's ``navbar.html`` has no place for tabs of others. It is not copied: its own source gets one line,
before its first tab. Where a release of Flower moves that place, the dashboard refuses to start and a test
fails.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tornado.template import BaseLoader, Template

TABS: Final = (
    ("overview", "Overview"),
    ("results", "Results"),
    ("submissions", "Submissions"),
    ("batches", "Batches"),
    ("dead", "Dead jobs"),
    ("models", "Models"),
)
"""Name, which is also the path, and title."""

STATIC: Final = Path(__file__).parent / "static"
_OURS: Final = Path(__file__).parent / "templates"
_FIRST_TAB: Final = '<ul class="app-nav navbar-nav">'


class Templates(BaseLoader):
    """Finds ``alexq/…`` among our templates and everything else among Flower's."""

    def __init__(self, flower_templates: Path, url_prefix: str) -> None:
        super().__init__(namespace={"alexq_tabs": TABS, "alexq_url": url_maker(url_prefix)})
        self._flower = flower_templates
        self.load("navbar.html")  # refuses what it cannot extend now, not at the first request

    def resolve_path(self, name: str, parent_path: str | None = None) -> str:
        """Return the name: all are whole."""
        return name

    def _create_template(self, name: str) -> Template:
        folder = _OURS if name.startswith("alexq/") else self._flower
        source = (folder / name).read_text("utf-8")
        return Template(with_tabs(source) if name == "navbar.html" else source, name=name, loader=self)


def with_tabs(navbar: str) -> str:
    """Return the source of Flower's navigation bar with our tabs before its own.

    Raises:
        ValueError: this is not the navigation bar that we know.
    """
    if navbar.count(_FIRST_TAB) != 1:
        raise ValueError(f"Flower's navbar.html has no single {_FIRST_TAB}: alexq cannot add its tabs there")
    styled = '{% include "alexq/style.html" %}' + navbar
    return styled.replace(_FIRST_TAB, _FIRST_TAB + '{% include "alexq/tabs.html" %}')


def prefixed(url_prefix: str | None, path: str) -> str:
    """Return a path of ours below Flower's ``url_prefix``."""
    prefix = (url_prefix or "").strip("/")
    return f"/{prefix}{path}" if prefix else path


def url_maker(url_prefix: str | None) -> Callable[[str], str]:
    """Return the function by which templates address our pages and files; a file's URL changes with it."""
    versions = {
        f"/alexq-static/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest()[:16]
        for file in STATIC.iterdir()
    }

    def url(path: str) -> str:
        version = versions.get(path)
        return prefixed(url_prefix, path) + (f"?v={version}" if version else "")

    return url
