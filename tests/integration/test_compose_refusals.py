"""A wrong set-up ends a service of docker-compose.yml at once, with what is wrong and what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from sqlalchemy import text

from alexq_schema import migrations
from alexq_schema.db.session import Database
from tests.helpers import nursery
from tests.helpers.composed import Composed, Container

ENDS_WITHIN_S = 240.0
"""Ten on a machine of one's own; this one may have other work."""

SQLITE = "sqlite:////data/alexq.db"
PROCESSES = ("migrate", "first-key", "gateway", "webhooks", "worker-cpu", "monitor")
BECOMES = {
    "gateway": "alexq_producer.gateway",
    "webhooks": "alexq_producer.webhooks",
    "worker": "alexq_worker",
    "worker-cpu": "alexq_worker",
    "monitor": "alexq_monitor",
}
"""What ``alexq NAME`` replaces itself by; on a full disk, and in test_compose.py, it does so."""

NO_FILE_MAY_GROW = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
os.execv(sys.argv[1], sys.argv[1:])
"""
"""As on a full disk."""


@pytest.fixture(scope="module")
def secrets() -> Iterator[Path]:
    """What the project's own command makes."""
    project = Composed({}, {})
    try:
        project.run("secrets")
        yield project.secrets
    finally:
        project.close()


@pytest.fixture
def project(secrets: Path) -> Iterator[Composed]:
    """The project, nothing of it up; its secrets are there."""
    project = Composed({}, {})
    try:
        shutil.copytree(secrets, project.secrets)
        yield project
    finally:
        project.close()


def refused(container: Container, *, is_disk_full: bool = False, **variables: str) -> str:
    """Run its command, ``variables`` in place of some of its own; return what it said and ended with."""
    env = {**container.env, **variables}
    if not is_disk_full:  # imports take seconds
        program = BECOMES.get(container.name)
        forked = ["-m", program] if program else container.command[1:]
        code = nursery.start(forked, log=container.log, env=env).wait(ENDS_WITHIN_S)
        said = container.said()
    else:
        done = subprocess.run(
            [sys.executable, "-c", NO_FILE_MAY_GROW, *container.command],
            env=env,
            cwd=container.root,
            capture_output=True,
            text=True,
            timeout=ENDS_WITHIN_S,
            check=False,
        )
        code, said = done.returncode, done.stderr
    assert code in (1, 2, 3), said
    assert "Traceback" not in said
    assert len(said.splitlines()) <= 3
    return said


@pytest.fixture
def migrated(project: Composed) -> Callable[[Container], str]:
    """Put a database of this release's schema into a container; returns its URL."""

    def put(container: Container) -> str:
        url = container.here(SQLITE)
        migrations.upgrade(url)
        return url

    return put


@pytest.mark.parametrize("name", PROCESSES)
def test_a_missing_secret_is_named(project: Composed, name: str) -> None:
    container = project.container(name)
    (container.root / "secrets" / "alexq_database_password").unlink()

    said = refused(container)

    assert "ALEXQ_DATABASE_PASSWORD is missing" in said
    assert f"{container.root}/secrets" in said


def test_secrets_that_are_not_mounted_are_named(project: Composed) -> None:
    container = project.container("gateway")
    shutil.rmtree(container.root / "secrets")

    assert "ALEXQ_SECRETS_DIR" in refused(container)


@pytest.mark.parametrize("name", ["migrate", "gateway", "webhooks", "worker-cpu"])
def test_a_database_that_does_not_answer_is_named(project: Composed, name: str) -> None:
    said = refused(project.container(name))

    assert "does not answer" in said
    assert "correct ALEXQ_DATABASE_URL" in said


@pytest.mark.parametrize(
    ("name", "level"),
    [("gateway", "none"), ("gateway", "9999"), ("webhooks", "0002"), ("worker-cpu", "none")],
)
def test_a_wrong_migration_level_is_named(project: Composed, name: str, level: str) -> None:
    container = project.container(name)
    url = container.here(SQLITE)
    if level != "none":
        migrations.upgrade(url)
        database = Database(url)
        with database.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = :level"), {"level": level})
            connection.execute(
                text("UPDATE schema_compatibility SET oldest_revision = :level"), {"level": level}
            )
        database.close()

    said = refused(container, ALEXQ_DATABASE_URL=url)

    assert f"at revision {level}" in said
    assert ("upgrade alexq" if level == "9999" else "run `alexq migrate`") in said


def test_a_gateway_without_any_key_does_not_listen_to_others(
    project: Composed, migrated: Callable[[Container], str]
) -> None:
    container = project.container("gateway")
    url = migrated(container)
    container.address = "0.0.0.0"

    assert "alexq keys create" in refused(container, ALEXQ_DATABASE_URL=url)


def test_a_worker_without_a_model_says_how_to_get_one(
    project: Composed, migrated: Callable[[Container], str]
) -> None:
    container = project.container("worker-cpu")

    assert "alexq models pull" in refused(container, ALEXQ_DATABASE_URL=migrated(container))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_worker_without_the_gpu_that_it_was_to_have_says_so(
    project: Composed, migrated: Callable[[Container], str], models_dir: Path
) -> None:
    container = project.container("worker")
    url = migrated(container)
    shutil.copytree(models_dir, project.folder / "models", dirs_exist_ok=True, copy_function=os.symlink)

    said = refused(container, ALEXQ_DATABASE_URL=url)

    assert "device 'cuda' is not there (found: cpu)" in said
    assert "ALEXQ_DEVICE" in said


@pytest.mark.parametrize("name", ["worker-cpu", "webhooks"])
def test_a_full_disk_below_the_health_file_is_named(
    project: Composed, postgres_url: str, models_dir: Path, broker_url: str, name: str
) -> None:
    container = project.container(name)
    shutil.copytree(models_dir, project.folder / "models", dirs_exist_ok=True, copy_function=os.symlink)

    said = refused(container, is_disk_full=True, ALEXQ_DATABASE_URL=postgres_url, ALEXQ_BROKER_URL=broker_url)

    assert "ALEXQ_HEALTH_FILE" in said
    assert "free space" in said


def test_a_full_disk_below_the_database_is_named(
    project: Composed, migrated: Callable[[Container], str]
) -> None:
    container = project.container("gateway")

    said = refused(container, is_disk_full=True, ALEXQ_DATABASE_URL=migrated(container))

    assert "cannot write; free space" in said


def test_a_worker_that_the_broker_refuses_says_so(
    project: Composed, migrated: Callable[[Container], str], models_dir: Path, broker_url: str
) -> None:
    container = project.container("worker-cpu")
    url = migrated(container)
    shutil.copytree(models_dir, project.folder / "models", dirs_exist_ok=True, copy_function=os.symlink)
    wrong = f"redis://:wrong@{broker_url.rpartition('@')[2]}"

    said = refused(container, ALEXQ_DATABASE_URL=url, ALEXQ_BROKER_URL=wrong)

    assert "correct ALEXQ_BROKER_URL or ALEXQ_BROKER_PASSWORD" in said
