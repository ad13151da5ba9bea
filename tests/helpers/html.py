"""HTML read by the standard parser, and held to be well-formed."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "input", "br", "hr"}


@dataclass(slots=True)
class Element:
    """A start tag and the text inside."""

    tag: str
    attributes: dict[str, str]
    text: str = ""


@dataclass(slots=True)
class Document:
    """A page."""

    elements: list[Element] = field(default_factory=list)
    text: str = ""

    def all(self, tag: str, **attributes: str) -> list[Element]:
        """Return the elements of this tag that have these attributes; ``class_`` is one of its classes."""
        wanted_class = attributes.pop("class_", None)
        return [
            one
            for one in self.elements
            if one.tag == tag
            and attributes.items() <= one.attributes.items()
            and (wanted_class is None or wanted_class in one.attributes.get("class", "").split())
        ]

    def cells(self) -> list[str]:
        """Return the text of every table cell."""
        return [" ".join(one.text.split()) for one in self.all("td")]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.document = Document()
        self._open: list[Element] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice: {names}"
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.document.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        opened = self._open.pop()
        assert opened.tag == tag, f"</{tag}> closes <{opened.tag}> {opened.attributes}, at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if not any(one.tag in ("script", "style") for one in self._open):
            self.document.text += data
        for one in self._open:
            one.text += data


def parse(html: str) -> Document:
    """Return the page; fails where a tag is closed by another, or an id or attribute is there twice."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert not reader._open, f"never closed: {[one.tag for one in reader._open]}"
    ids = [one.attributes["id"] for one in reader.document.elements if "id" in one.attributes]
    assert len(ids) == len(set(ids)), "an id is there twice"
    return reader.document
