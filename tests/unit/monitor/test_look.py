"""Flower's own templates, with our tabs: this is where a new Flower shows first."""

from __future__ import annotations

from pathlib import Path

import flower
import pytest

from alexq_monitor.look import STATIC, TABS, Templates, prefixed, url_maker, with_tabs

FLOWER = Path(flower.__file__).parent / "templates"


def test_our_tabs_come_before_flowers_in_its_own_navigation_bar() -> None:
    source = with_tabs((FLOWER / "navbar.html").read_text())
    assert source.index("alexq/tabs.html") < source.index("reverse_url('workers')")
    for part in ("reverse_url('main')", "reverse_url('tasks')", "reverse_url('broker')", "theme-toggle"):
        assert part in source


def test_a_flower_whose_bar_is_another_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="alexq cannot add its tabs"):
        with_tabs("<nav><ul class='another'></ul></nav>")


def test_everything_else_is_flowers_own_file() -> None:
    loader = Templates(FLOWER, "")
    for file in FLOWER.glob("*.html"):
        assert loader.load(file.name)


def test_our_tabs_have_names_of_their_own() -> None:
    ours = {name for name, _ in TABS}
    assert len(ours) == len(TABS)
    assert not ours & {"workers", "worker", "tasks", "task", "broker", "api", "metrics", "login", "logout"}


@pytest.mark.parametrize("prefix", ["x", "/x", "/x/", "x/"])
def test_a_prefix_is_spelled_as_flower_spells_it(prefix: str) -> None:
    assert prefixed(prefix, "/dead") == "/x/dead"
    assert prefixed("", "/dead") == prefixed(None, "/dead") == "/dead"


def test_a_file_that_changes_has_another_url() -> None:
    url = url_maker("x")
    assert url("/alexq-static/alexq.css").startswith("/x/alexq-static/alexq.css?v=")
    assert url("/dead") == "/x/dead"


def test_nothing_is_loaded_from_elsewhere() -> None:
    for file in [*STATIC.iterdir(), *(Path(STATIC).parent / "templates" / "alexq").iterdir()]:
        text = file.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text, file
        assert "https:" not in text, file
        if file.suffix == ".html":
            assert " style=" not in text, file
            assert "<script>" not in text, file
            assert "onclick" not in text, file
