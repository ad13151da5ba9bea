"""What an image of deploy/Dockerfile does: read from the file itself."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATH = ROOT / "deploy/Dockerfile"


@dataclass
class Image:
    """One stage, with what it has from those that it is made of."""

    env: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)
    user: str = "root"
    ports: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)

    def child(self) -> Image:
        """Return a stage that begins as this one."""
        return Image(
            dict(self.env),
            dict(self.labels),
            list(self.entrypoint),
            list(self.command),
            list(self.healthcheck),
            self.user,
            list(self.ports),
            list(self.steps),
        )


def images(path: Path = PATH) -> dict[str, Image]:
    """Return every stage by its name."""
    stages: dict[str, Image] = {}
    image = Image()
    for word, rest in _instructions(path.read_text()):
        if word == "FROM":
            parent, _, name = rest.partition(" AS ")
            image = stages[name] = stages[parent].child() if parent in stages else Image()
        else:
            _apply(image, word, rest)
    return stages


def _instructions(text: str) -> list[tuple[str, str]]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(line.split()[0], line.split(None, 1)[1].strip()) for line in joined.splitlines() if line.strip()]


def _apply(image: Image, word: str, rest: str) -> None:
    image.steps.append(f"{word} {rest}")
    if word == "ENV":
        image.env.update(pair.split("=", 1) for pair in shlex.split(rest))
    elif word == "LABEL":
        image.labels.update(pair.split("=", 1) for pair in shlex.split(rest))
    elif word == "ENTRYPOINT":
        image.entrypoint = json.loads(rest)
    elif word == "CMD":
        image.command = json.loads(rest)
    elif word == "HEALTHCHECK":
        image.healthcheck = json.loads(rest.partition("CMD ")[2])
    elif word == "USER":
        image.user = rest
    elif word == "EXPOSE":
        image.ports.append(rest)
