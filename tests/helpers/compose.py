"""docker-compose.yml as Compose reads it: merged, its variables filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
PATH = ROOT / "docker-compose.yml"
VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def load(path: Path = PATH, variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the file with ``variables``, the defaults in it for others; without extensions (``x-…``)."""
    given = variables or {}

    def fill(value: Any) -> Any:
        if isinstance(value, str):
            return VARIABLE.sub(lambda found: given.get(found[1]) or found[2] or "", value)
        if isinstance(value, dict):
            return {key: fill(each) for key, each in value.items() if not str(key).startswith("x-")}
        return [fill(each) for each in value] if isinstance(value, list) else value

    filled: dict[str, Any] = fill(yaml.safe_load(path.read_text()))
    return filled


def environment(service: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables that the file gives a service."""
    return {name: str(value) for name, value in (service.get("environment") or {}).items()}


def mounts(service: Mapping[str, Any]) -> dict[str, str]:
    """Return by path in the container: the volume, ``secret:NAME`` or ``config:NAME`` that lies there."""
    found: dict[str, str] = {}
    for volume in service.get("volumes", []):
        if isinstance(volume, str):
            name, path, *_ = volume.split(":")
            found[path] = name
        else:
            found[volume["target"]] = volume["source"]
    for secret in service.get("secrets", []):
        found[f"/run/secrets/{secret}"] = f"secret:{secret}"
    for config in service.get("configs", []):
        found[config["target"]] = f"config:{config['source']}"
    return found


def in_order(services: Mapping[str, Any], names: list[str]) -> list[str]:
    """Return ``names`` and what they depend on, each after what it needs."""
    ordered: list[str] = []

    def add(name: str) -> None:
        for needed in services[name].get("depends_on", {}):
            add(needed)
        if name not in ordered:
            ordered.append(name)

    for name in names:
        add(name)
    return ordered
