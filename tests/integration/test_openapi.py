"""Schemathesis over the whole OpenAPI document, with what follows from what (stateful links)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from alexq_schema.keys import Scope
from alexq_schema.settings import Settings
from tests.helpers.gateway import make_key, running_gateway

ROOT = Path(__file__).parents[2]

CONFIG = """\
hooks = "tests.helpers.schemathesis_hooks"

[parameters]
wait_s = 0
prefer = "wait=0"

[checks]
# A file that is no picture, an image that is gone: no schema can say so.
positive_data_acceptance.expected-statuses = ["2xx", "404", "409", "413", "415", "422"]
# DELETE cancels: what was cancelled can still be seen.
use_after_free.enabled = false
"""


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """One database is enough here."""
    return sqlite_url


@pytest.mark.slow
def test_the_gateway_does_what_its_document_says(settings: Settings, tmp_path: Path) -> None:
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    key = make_key(settings, "shop", *Scope)
    with running_gateway(settings, tmp_path / "gateway.log") as gateway:
        done = subprocess.run(
            [
                *(Path(sys.executable).with_name("schemathesis"), "--config-file", config),
                *("run", f"{gateway.url}/openapi.json", "-H", f"Authorization: Bearer {key}"),
                *("-n", "20", "--request-timeout", "60", "--seed", "1"),
            ],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )

    assert done.returncode == 0, done.stdout[-8_000:]
    assert "Tested: 14" in done.stdout
    assert "Traceback" not in gateway.log.read_text()
