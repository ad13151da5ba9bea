"""What a process says: one JSON object a line for machines, whoever says it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from alexq.stack.environment import environment
from alexq.stack.log import Log
from alexq_schema.settings import Settings

SPEAKERS = """
import logging, threading, warnings
from uuid import UUID
from alexq_schema import logs
logs.configure({log_format!r}, "speaker")
logs.bind(worker_id="w1")
about = {{"job_id": UUID(int=7), "size": 2, "job_ids": [UUID(int=7), UUID(int=8)]}}
logging.getLogger("alexq.worker").info("took %d", 2, extra=about)
logging.getLogger("celery.app.trace").error("theirs", extra={{"data": {{"kwargs": "an image"}}}})
logging.getLogger("celery").info("chatter")
warnings.warn("old")
thread = threading.Thread(target=lambda: 1 / 0, name="t1")
thread.start()
thread.join()
raise RuntimeError("two\\nlines")
"""


def spoken(log_format: str) -> list[str]:
    program = SPEAKERS.format(log_format=log_format)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr.splitlines()


def test_every_record_warning_and_uncaught_error_is_one_object() -> None:
    ours, theirs, warned, thread, ended = map(json.loads, spoken("json"))

    assert ours["event"] == "took 2"
    assert (ours["job_id"], ours["size"]) == ("00000000-0000-0000-0000-000000000007", 2)
    assert ours["job_ids"] == [str(UUID(int=7)), str(UUID(int=8))]
    assert {line["process"] for line in (ours, theirs, warned, thread, ended)} == {"speaker"}
    assert {line["worker_id"] for line in (ours, theirs, warned, thread, ended)} == {"w1"}
    assert (theirs["logger"], theirs["level"]) == ("celery.app.trace", "error")
    assert "data" not in theirs  # a library's extras may hold a whole message
    assert "old" in warned["event"]
    assert "t1" in thread["event"]
    assert "ZeroDivisionError" in thread["exception"]
    assert ended["level"] == "critical"
    assert "RuntimeError: two\nlines" in ended["exception"]
    assert all(line["timestamp"].endswith("Z") for line in (ours, ended))


def test_people_get_the_text_and_what_it_is_about() -> None:
    first, *_ = spoken("console")

    assert "took 2" in first
    assert "job_id" in first
    assert "w1" not in first  # a person looks at one process
    assert f"{UUID(int=7)} and 1 more" in first


def test_what_a_client_sent_is_no_line_of_its_own_and_steers_no_terminal() -> None:
    program = (
        "import logging; from alexq_schema import logs; logs.configure('console', 'speaker');"
        "sent = 'x\\r\\n2026-01-01T00:00:00Z [info] forged\\x1b[2J\\x9b';"
        "logging.getLogger('alexq').info('no %s', sent, extra={'code': '\\x1b[2J\\x9b'})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert not any(line.startswith("2026-01-01") for line in done.stderr.splitlines())
    assert "forged\\x1b[2J\\x9b code=\\x1b[2J\\x9b" in done.stderr
    assert "\x1b[2J" not in done.stderr


def refused(module: str, tmp_path: Path, **given: Any) -> tuple[int, list[dict[str, Any]]]:
    settings = Settings.load(
        data_dir=tmp_path,
        database_url=f"sqlite:///{tmp_path / 'empty.db'}",
        broker_url="redis://127.0.0.1:1/0",
        log_format="json",
        **given,
    )
    argv = [sys.executable, "-m", module]
    done = subprocess.run(argv, env=environment(settings), capture_output=True, text=True, check=False)
    assert done.stdout == ""
    return done.returncode, [json.loads(line) for line in done.stderr.splitlines()]


@pytest.mark.parametrize(
    ("module", "process", "given", "status", "code"),
    [
        ("alexq_worker", "worker", {}, 1, "migration"),
        ("alexq_producer.gateway", "gateway", {}, 3, "migration"),
        ("alexq_monitor", "monitor", {"monitor_address": "192.0.2.1"}, 2, "settings"),
    ],
)
def test_a_process_that_cannot_begin_says_so_as_json_too(
    tmp_path: Path, module: str, process: str, given: dict[str, Any], status: int, code: str
) -> None:
    exit_code, lines = refused(module, tmp_path, **given)

    assert exit_code == status
    assert lines[-1]["code"] == code
    assert {line["process"] for line in lines} == {process}


def test_the_stack_keeps_its_childrens_objects_and_makes_one_of_all_else() -> None:
    stream = io.StringIO()
    log = Log(stream, "json")

    log.say("ready [bold]")
    log.line("alexq", "a port is taken", style="yellow")
    log.line("worker", '{"event": "batch", "size": 3}')
    log.line("broker", "1:M * Ready\x1b[0m to accept: 7 + 1")
    log.line("broker", "7")

    said, warned, batch, broker, number = map(json.loads, stream.getvalue().splitlines())
    assert (said["process"], said["event"], said["level"]) == ("alexq", "ready [bold]", "info")
    assert warned["level"] == "warning"
    assert batch == {"event": "batch", "size": 3}
    assert (broker["process"], broker["event"]) == ("broker", "1:M * Ready\x1b[0m to accept: 7 + 1")
    assert number["event"] == "7"
