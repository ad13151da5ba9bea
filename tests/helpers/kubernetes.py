"""The manifests of deploy/kubernetes, as a cluster would get them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "deploy/kubernetes"
ALL = ("base", "overlays/cpu", "overlays/autoscaled", "overlays/local")

needs_kustomize = pytest.mark.skipif(
    shutil.which("kustomize") is None and shutil.which("kubectl") is None,
    reason="neither kustomize nor kubectl is there to put the manifests together",
)


@cache
def _rendered(name: str) -> str:
    program = ["kustomize", "build"] if shutil.which("kustomize") else ["kubectl", "kustomize"]
    done = subprocess.run([*program, FOLDER / name], capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rendered(name: str) -> list[dict[str, Any]]:
    """Return the objects of the base or of an overlay."""
    return list(yaml.safe_load_all(_rendered(name)))


def written() -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield every object as it is written, before anything is put together."""
    for path in sorted(FOLDER.rglob("*.yaml")):
        for each in yaml.safe_load_all(path.read_text()):
            yield path, each


def of_kind(objects: list[dict[str, Any]], *kinds: str) -> dict[str, dict[str, Any]]:
    """Return by name the objects of these kinds."""
    return {each["metadata"]["name"]: each for each in objects if each["kind"] in kinds}


def pods(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return by the name of what makes them: the pods' specifications."""
    makers = of_kind(objects, "Deployment", "StatefulSet", "Job")
    return {name: each["spec"]["template"]["spec"] for name, each in makers.items()}


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a pod's containers, those that run first before the others."""
    return [*pod.get("initContainers", []), *pod["containers"]]
