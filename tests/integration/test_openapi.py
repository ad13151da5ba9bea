"""Schemathesis over the whole OpenAPI document, with what follows from what (stateful links)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from alexq_schema.db.session import Database
from alexq_schema.keys import Scope
from alexq_schema.settings import Settings
from tests.helpers.gateway import make_key, running_gateway
from tests.helpers.system import System

ROOT = Path(__file__).parents[2]

CONFIG = """\
hooks = "tests.helpers.schemathesis_hooks"

[parameters]
wait_s = 0
prefer = "wait=0"

[phases]
# In the document's examples words stand for files; tests/unit/test_openapi_examples.py holds them to it.
examples.enabled = false

[checks]
# A file that is no picture, an image that is gone: no schema can say so.
positive_data_acceptance.expected-statuses = ["2xx", "404", "409", "413", "415", "422"]
# DELETE cancels: what was cancelled can still be seen.
use_after_free.enabled = false

[[operations]]
include-path-regex = "^/v2/models/"
include-method = "GET"
parameters = { name = "alexnet", version = "test" }
"""


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """One database is enough here."""
    return sqlite_url


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_the_gateway_does_what_its_document_says(
    settings: Settings, database: Database, tmp_path: Path
) -> None:
    System(database)  # a worker, so that it is ready for inferences
    settings = settings.model_copy(update={"silent_after_s": 300.0})
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    key = make_key(settings, "shop", *Scope)
    with running_gateway(settings, tmp_path / "gateway.log") as gateway:
        with gateway.client() as client:
            operations = sum(map(len, client.get("/openapi.json").json()["paths"].values()))
        done = subprocess.run(
            [
                *(Path(sys.executable).with_name("schemathesis"), "--config-file", config),
                *("run", f"{gateway.url}/openapi.json", "-H", f"Authorization: Bearer {key}"),
                *("-n", "20", "--request-timeout", "200", "--seed", "1"),
            ],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
            capture_output=True,
            text=True,
            timeout=1_000,
            check=False,
        )

    assert done.returncode == 0, done.stdout[-8_000:]
    assert f"Tested: {operations}" in done.stdout
    assert "Traceback" not in gateway.log.read_text()
