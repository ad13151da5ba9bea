"""Virtual environments of the peers: their own packages first, then those of the environment that measures.

A peer's environment holds only what the peer asks for. Everything else (torch, Pillow, numpy, alexq itself)
it sees through a ``.pth`` file that adds the measuring environment's site-packages behind its own, so that
every contender runs the same build of torch and nothing of gigabytes is installed twice.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.throughput.contender import NotRunnableError

REPO = Path(__file__).resolve().parents[3]
FOLDER = REPO / ".bench-venvs"
INSTALL_S = 1_200.0


def environment(name: str, requirements: Sequence[str]) -> Path:
    """Return the Python of the environment ``name``; make it unless it holds ``requirements`` already.

    Raises:
        NotRunnableError: the packages cannot be installed; with the last lines of what pip said.
    """
    folder = FOLDER / name
    python = folder / "bin" / "python"
    site_packages = sysconfig.get_path("purelib")
    key = json.dumps({"requirements": list(requirements), "behind": site_packages, "python": sys.version})
    stamp = folder / "made-of.json"
    if stamp.exists() and stamp.read_text() == key:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True, symlinks=True)
    (FOLDER / ".gitignore").write_text("*\n")
    argv = [str(python), "-m", "pip", "install", "--no-input", "--quiet", *requirements]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise NotRunnableError(f"{name}: pip does not end within {INSTALL_S:.0f} s") from error
    if done.returncode != 0:
        raise NotRunnableError(f"{name}: cannot be installed: {' '.join(done.stderr.splitlines()[-5:])}")
    _see_behind(folder, site_packages)
    stamp.write_text(key)
    return python


def _see_behind(folder: Path, site_packages: str) -> None:
    """Append ``site_packages``, with what its own .pth files add, to the environment's module path."""
    paths = {"base": str(folder), "platbase": str(folder)}
    own = Path(sysconfig.get_path("purelib", vars=paths))
    (own / "zz_behind.pth").write_text(f"import site; site.addsitedir({site_packages!r})\n")


def versions(python: Path | str, distributions: Mapping[str, str]) -> str:
    """Return what ``python`` imports, such as ``Celery 5.7.0``.

    Args:
        distributions: the installed name by the name for people.
    """
    code = "import sys, importlib.metadata as m; print(*map(m.version, sys.argv[1:]))"
    argv = [str(python), "-c", code, *distributions.values()]
    found = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout.split()
    return ", ".join(f"{name} {version}" for name, version in zip(distributions, found, strict=True))
