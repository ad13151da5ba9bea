"""``alexq doctor``: what this machine needs to run alexq, checked one by one, each in bounded time."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from alexq.torch_facts import TorchFacts, probe_torch
from alexq_schema.errors import AlexqError, SettingsError, StackNotRunningError
from alexq_schema.models import ModelStore
from alexq_schema.settings import Settings

CHECK_TIMEOUT_S: Final = 5.0
HASH_TIMEOUT_S: Final = 60.0
"""Reading 233 MiB of weights from a cold disk."""
WEBHOOKS_OVERDUE_S: Final = 30.0
"""A webhook worker looks every second."""
MIN_FREE_BYTES: Final = 10**9
MAX_CLOCK_DIFFERENCE_S: Final = 2.0
_MIN_PYTHON: Final = (3, 11)
_MIN_REDIS_MAJOR: Final = 7


@dataclass(frozen=True)
class Check:
    """What one check found."""

    name: str
    ok: bool
    found: str
    fix: str = ""
    """What to do; empty when it is fine."""


def run_checks(settings: Settings) -> Iterator[Check]:
    """Yield every check's outcome; none takes longer than its timeout, none raises."""
    torch = probe_torch()
    yield check_python()
    yield check_torch(torch)
    yield check_device(settings.device, torch)
    try:
        settings = Settings.connected(data_dir=settings.data_dir)
    except (SettingsError, StackNotRunningError) as error:
        fix = "alexq up" if isinstance(error, StackNotRunningError) else "correct the ALEXQ_ settings"
        for name in ("broker", "database", "clock", "workers"):
            yield Check(name, ok=False, found=str(error), fix=fix)
    else:
        for module in ("redis", "alexq_schema.migrations"):
            importlib.import_module(module)  # loading them is no part of what a service has time for
        for name, check in (
            ("broker", check_broker),
            ("database", check_database),
            ("clock", check_clock),
            ("workers", check_workers),
        ):
            yield bounded(name, check, settings, CHECK_TIMEOUT_S)
    yield bounded("image store", check_image_store, settings, CHECK_TIMEOUT_S)
    yield bounded("model", check_model, settings, HASH_TIMEOUT_S)
    yield bounded("data folder", check_data_folder, settings, CHECK_TIMEOUT_S)


def bounded(name: str, check: Callable[[Settings], Check], settings: Settings, timeout_s: float) -> Check:
    """Return the check's outcome; one that raises or takes longer than ``timeout_s`` has failed."""
    outcome: list[Check] = []

    def run() -> None:
        try:
            outcome.append(check(settings))
        except AlexqError as error:
            fix = "start it, or correct its address" if error.is_retryable else "correct the ALEXQ_ settings"
            outcome.append(Check(name, ok=False, found=str(error), fix=fix))
        except Exception as error:  # noqa: BLE001 - the doctor reports what it did not expect
            found = f"{type(error).__name__}: {error}"
            outcome.append(Check(name, ok=False, found=found, fix="this is a bug in alexq: report it"))

    # A daemon thread: one that hangs in a driver must not keep the command from ending.
    thread = threading.Thread(target=run, name=f"check-{name}", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if outcome:
        return outcome[0]
    return Check(
        name, ok=False, found=f"no answer within {timeout_s:.0f} s", fix="check address and firewall"
    )


def check_python(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> Check:
    """Python is new enough."""
    ok = version >= _MIN_PYTHON
    fix = "" if ok else "install Python 3.11 or newer"
    return Check("python", ok, ".".join(map(str, version)), fix)


def check_torch(facts: TorchFacts | str) -> Check:
    """Torch and torchvision import together."""
    if isinstance(facts, str):
        return Check("torch", ok=False, found=facts, fix='pip install "alexq[all]"')
    return Check("torch", ok=True, found=f"torch {facts.torch}, torchvision {facts.torchvision}")


def check_device(device: str, facts: TorchFacts | str) -> Check:
    """The device that the settings ask for is there."""
    if isinstance(facts, str):
        return Check("device", ok=False, found="unknown without torch", fix="fix torch first")
    kind = device.partition(":")[0]
    indices = [int(one.partition(":")[2] or 0) for one in device.split(",")]
    if kind == "cuda" and len(facts.cuda) <= max(indices):
        found = f"{device} asked for, {len(facts.cuda)} CUDA devices seen"
        fix = "set ALEXQ_DEVICE=auto, or install the GPU's driver and a CUDA build of torch"
        return Check("device", ok=False, found=found, fix=fix)
    if kind == "mps" and not facts.mps:
        return Check("device", ok=False, found="mps asked for, not there", fix="set ALEXQ_DEVICE=auto")
    seen = ", ".join(facts.cuda) or ("mps" if facts.mps else f"CPU, {len(os.sched_getaffinity(0))} cores")
    return Check("device", ok=True, found=f"{device}: {seen}")


def check_broker(settings: Settings) -> Check:
    """The broker answers, lets us in, and is new enough."""
    from redis.backoff import NoBackoff
    from redis.exceptions import AuthenticationError, RedisError
    from redis.retry import Retry

    from alexq_schema.broker import connect

    try:
        client = connect(
            settings.broker_url,
            socket_timeout=CHECK_TIMEOUT_S / 2,
            socket_connect_timeout=CHECK_TIMEOUT_S / 2,
            retry=Retry(NoBackoff(), 0),
        )
        with client:
            client.ping()
            server: dict[str, Any] = client.info("server")
    except SettingsError as error:
        return Check("broker", ok=False, found=str(error), fix="correct ALEXQ_BROKER_URL")
    except AuthenticationError as error:
        return Check("broker", ok=False, found=str(error), fix="correct the password in ALEXQ_BROKER_URL")
    except RedisError as error:
        return Check(
            "broker", ok=False, found=str(error), fix="start it (`alexq up`) or correct ALEXQ_BROKER_URL"
        )
    name = "Valkey" if "valkey_version" in server else "Redis"
    version = str(server.get("valkey_version") or server.get("redis_version") or "0")
    if name == "Redis" and int(version.split(".")[0]) < _MIN_REDIS_MAJOR:
        return Check("broker", ok=False, found=f"Redis {version}", fix="use Redis 7 or newer, or Valkey")
    return Check("broker", ok=True, found=f"{name} {version}")


def check_database(settings: Settings) -> Check:
    """The database answers and has this release's schema."""
    from alexq_schema import migrations
    from alexq_schema.errors import DatabaseUnavailableError

    try:
        level = migrations.current(settings.database_url)
    except DatabaseUnavailableError as error:
        return Check("database", ok=False, found=str(error), fix="start it or correct ALEXQ_DATABASE_URL")
    head = migrations.head()
    kind = settings.database_url.partition(":")[0]
    if level != head:
        return Check(
            "database", ok=False, found=f"{kind} at {level or 'empty'}, not {head}", fix="alexq migrate"
        )
    return Check("database", ok=True, found=f"{kind} at {level}")


def check_clock(settings: Settings) -> Check:
    """This machine's clock agrees with the database's, the one that decides."""
    from alexq_schema.db import clock
    from alexq_schema.db.session import Database

    with closing(Database(settings.database_url)) as database, database.read() as connection:
        clock.now(connection)  # connecting is not part of the measurement
        before = datetime.now(UTC)
        theirs = clock.now(connection)
        after = datetime.now(UTC)
    return judge_clock((theirs - (before + (after - before) / 2)).total_seconds())


def judge_clock(difference_s: float) -> Check:
    """Judge a difference, positive where the database is ahead."""
    ok = abs(difference_s) <= MAX_CLOCK_DIFFERENCE_S
    fix = "" if ok else "synchronise both clocks (chrony, systemd-timesyncd)"
    return Check("clock", ok, f"{difference_s:+.3f} s from here to the database", fix)


def check_model(settings: Settings) -> Check:
    """The model to serve is there and its files are what they were."""
    try:
        version = ModelStore(settings.models_dir).resolve(settings.model)
        version.read_labels()
        version.verify_weights()
    except AlexqError as error:
        fix = "alexq models pull, or import and activate yours again"
        return Check("model", ok=False, found=str(error), fix=fix)
    kind = "trained" if version.info.trained else "UNTRAINED: its labels mean nothing"
    return Check(
        "model", ok=True, found=f"{version.info.ref}, sha256 {version.info.weights_sha256[:12]}, {kind}"
    )


def check_workers(settings: Settings) -> Check:
    """Someone does the work, where there is some."""
    from alexq_schema.db import backlog, delivery_log, workers
    from alexq_schema.db.session import Database

    with closing(Database(settings.database_url)) as database, database.read() as connection:
        alive = workers.alive(connection, settings.silent_after_s)
        lanes = backlog.waiting(connection)
        untold = delivery_log.overdue(connection, for_s=WEBHOOKS_OVERDUE_S)
    unserved = backlog.unserved(lanes, {worker.queue for worker in alive})
    found = f"{len(alive)} alive, {sum(lane.jobs for lane in lanes.values())} jobs wait"
    if alive or set(unserved) - {""}:
        found += "".join(f", {jobs} of them {_nobody(queue)}" for queue, jobs in unserved.items())
    if untold:
        found += f", {untold} webhook deliveries that nobody looks at"
        return Check("workers", ok=False, found=found, fix="alexq webhooks worker, or alexq up")
    starts = [f"alexq worker --queue {queue}" if queue else "alexq worker, or alexq up" for queue in unserved]
    return Check("workers", not unserved, found, "; ".join(starts))


def _nobody(queue: str) -> str:
    return (
        f"in the queue {queue}, which no worker serves"
        if queue
        else "in the default queue, which none serves"
    )


def check_image_store(settings: Settings) -> Check:
    """Images can be written."""
    from alexq_schema.images import open_image_store

    open_image_store(settings.images_url).check()
    return Check("image store", ok=True, found=settings.images_url)


def check_data_folder(settings: Settings) -> Check:
    """The data folder can be written to and its disk has room."""
    folder = settings.data_dir
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            free_bytes = shutil.disk_usage(existing).free
    except OSError as error:
        found = f"cannot write to {existing}: {error.strerror}"
        return Check(
            "data folder", ok=False, found=found, fix="name another with --data-dir or ALEXQ_DATA_DIR"
        )
    found = f"{_shown(folder, existing)}, {free_bytes / 10**9:.1f} GB free"
    if free_bytes < MIN_FREE_BYTES:
        return Check("data folder", ok=False, found=found, fix="free at least 1 GB, or name another folder")
    return Check("data folder", ok=True, found=found)


def _shown(folder: Path, existing: Path) -> str:
    return str(folder) if folder == existing else f"{folder} (will be made)"
