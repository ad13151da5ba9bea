"""The supervisor, with tiny real children."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from alexq.stack.log import Log
from alexq.stack.supervisor import Child, Supervisor, restart_delay_s
from alexq_schema.errors import StackError
from tests.helpers.eventually import eventually

SLEEPER = "import time; time.sleep(600)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf'); time.sleep(600)"

POLITE = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("bye")))
print("up")
time.sleep(600)
"""
WAITS = """
import os, time
while not os.path.exists({go_on!r}):
    time.sleep(0.01)
"""
"""Begins a child that ends by itself: one that has ended before it is looked at did not start."""
PARENT = f"""
import subprocess, sys, time
print("pid", subprocess.Popen([sys.executable, "-c", {SLEEPER!r}]).pid)
time.sleep(600)
"""


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def child(code: str, *, name: str = "child", **options: object) -> Child:
    settings: dict[str, object] = {"is_ready": lambda _pid: True, "grace_s": 60.0} | options
    argv = [sys.executable, "-u", "-c", code]
    return Child(name=name, argv=argv, env=dict(os.environ), **settings)  # type: ignore[arg-type]


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def written() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def supervisor(written: io.StringIO) -> Iterator[Supervisor]:
    made = Supervisor(Log(written))
    yield made
    made.request_stop()
    made.request_stop()
    made.stop()


@pytest.fixture
def clocked(written: io.StringIO, clock: Clock) -> Iterator[Supervisor]:
    made = Supervisor(Log(written), clock=clock)
    yield made
    made.request_stop()
    made.request_stop()
    made.stop()


def pid_of(supervisor: Supervisor, name: str = "child") -> int:
    pid = supervisor.pid(name)
    assert pid is not None
    return pid


def kill_and_note(supervisor: Supervisor) -> None:
    os.kill(pid_of(supervisor), signal.SIGKILL)

    def noted() -> bool:
        supervisor.check()
        return supervisor.pid("child") is None

    eventually(noted, what="the supervisor notes the death")


def test_restart_delays_double_up_to_thirty_seconds() -> None:
    assert [restart_delay_s(n) for n in range(1, 9)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert restart_delay_s(10_000) == 30


def test_a_child_that_does_not_get_on_is_killed_and_restarted(
    supervisor: Supervisor, written: io.StringIO
) -> None:
    hung: list[int] = []
    assert supervisor.start(child(DEAF, is_healthy=lambda pid: pid not in hung))
    first = pid_of(supervisor)
    supervisor.check()
    assert supervisor.pid("child") == first

    hung.append(first)
    supervisor.check()
    assert is_gone(first)

    def restarted() -> bool:
        supervisor.check()
        return supervisor.pid("child") not in (None, first)

    eventually(restarted)
    assert "does not get on any more" in written.getvalue()


def test_a_child_that_dies_is_restarted_after_its_delay_and_not_before(
    clocked: Supervisor, clock: Clock, written: io.StringIO
) -> None:
    assert clocked.start(child(SLEEPER))
    kill_and_note(clocked)
    assert "child ended with SIGKILL; restart in 0.5 s" in written.getvalue()

    clock.now_s += 0.4
    clocked.check()
    assert clocked.pid("child") is None

    clock.now_s += 0.2
    clocked.check()
    assert not is_gone(pid_of(clocked))


def test_the_delay_grows_with_each_death_and_shrinks_after_a_healthy_minute(
    clocked: Supervisor, clock: Clock, written: io.StringIO
) -> None:
    clocked.start(child(SLEEPER))
    for _ in range(2):
        kill_and_note(clocked)
        clock.now_s += 30
        clocked.check()  # starts it again
        clocked.check()  # notes that it is ready
    assert "restart in 1 s" in written.getvalue()

    clock.now_s += 61
    clocked.check()
    kill_and_note(clocked)
    assert written.getvalue().rstrip().endswith("restart in 0.5 s")


def test_a_child_that_is_not_ready_in_time_is_an_error(clocked: Supervisor, clock: Clock) -> None:
    def never(_pid: int) -> bool:
        clock.now_s += 10
        return False

    with pytest.raises(StackError, match="child was not ready within 5 s"):
        clocked.start(child(SLEEPER, is_ready=never, ready_timeout_s=5.0))


def test_a_child_that_ends_while_starting_is_an_error_that_says_how(supervisor: Supervisor) -> None:
    with pytest.raises(StackError, match="child did not start: it ended with exit code 7"):
        supervisor.start(child("raise SystemExit(7)", is_ready=lambda _pid: False))


def test_a_program_that_is_not_there_is_an_error(supervisor: Supervisor, written: io.StringIO) -> None:
    with pytest.raises(StackError):
        supervisor.start(Child("child", ["/no/such/program"], os.environ, is_ready=lambda _pid: False))
    assert "/no/such/program" in written.getvalue()


def test_every_line_carries_the_name_of_its_child(
    supervisor: Supervisor, written: io.StringIO, tmp_path: Path
) -> None:
    waits = WAITS.format(go_on=str(tmp_path / "go on"))
    supervisor.start(child(waits + "print('one'); print('two', end='')", name="first"))
    supervisor.start(child(waits + "import sys; print('three', file=sys.stderr)", name="second"))
    (tmp_path / "go on").touch()
    expected = ["first    │ one", "first    │ two", "second   │ three"]
    eventually(lambda: set(expected) <= set(written.getvalue().splitlines()))


def test_a_child_cannot_send_control_sequences_to_the_terminal(
    supervisor: Supervisor, written: io.StringIO
) -> None:
    supervisor.start(child(r"print('a\x1b[2Jb\x07c[bold]d')" + f"; {SLEEPER}"))
    eventually(lambda: "child    │ abc[bold]d\n" in written.getvalue())


def test_a_log_that_is_no_terminal_has_no_colours(written: io.StringIO) -> None:
    Log(written).warn("careful")
    assert written.getvalue() == "alexq    │ careful\n"


def test_stop_ends_the_children_in_reverse_order(supervisor: Supervisor, written: io.StringIO) -> None:
    for name in ("first", "second", "third"):
        supervisor.start(child(POLITE, name=name))
    eventually(lambda: written.getvalue().count("up") == 3)
    supervisor.stop()
    goodbyes = [line.split()[0] for line in written.getvalue().splitlines() if line.endswith("bye")]
    assert goodbyes == ["third", "second", "first"]


def test_children_that_start_together_are_all_there_before_the_first_is_ready(
    supervisor: Supervisor,
) -> None:
    def are_both_there(_pid: int) -> bool:
        return all(supervisor.pid(name) is not None for name in ("one", "two"))

    assert supervisor.start_all(
        [child(SLEEPER, name=name, is_ready=are_both_there) for name in ("one", "two")]
    )


def test_one_of_several_that_does_not_start_is_an_error(supervisor: Supervisor) -> None:
    with pytest.raises(StackError, match="two did not start: it ended with exit code 3"):
        supervisor.start_all(
            [
                child(SLEEPER, name="one"),
                child("import sys; sys.exit(3)", name="two", is_ready=lambda _pid: False),
            ]
        )


def test_children_that_stop_together_all_begin_to_before_the_first_has_ended(
    supervisor: Supervisor, written: io.StringIO
) -> None:
    """The last started, for which a stop waits first, ends when the other has."""
    supervisor.start(child(POLITE, name="first"))
    eventually(lambda: "up" in written.getvalue())
    first = supervisor.pid("first")
    waits = f"""
import os, signal, sys, time
def end(*_):
    while os.path.exists("/proc/{first}/cmdline") and open("/proc/{first}/cmdline").read():
        time.sleep(0.05)
    sys.exit(5)
signal.signal(signal.SIGTERM, end)
print("waits")
time.sleep(600)
"""
    supervisor.start(child(waits, name="last"))
    eventually(lambda: "waits" in written.getvalue())
    assert supervisor.stop(together=True) == {"last": 5, "first": 0}


def test_stop_tolerates_never_started_and_twice_stopped(supervisor: Supervisor) -> None:
    Supervisor(Log(io.StringIO())).stop()
    supervisor.start(child(SLEEPER))
    pid = pid_of(supervisor)
    supervisor.stop()
    supervisor.stop()
    assert is_gone(pid)


def test_nothing_starts_after_a_stop(supervisor: Supervisor) -> None:
    supervisor.stop()
    assert supervisor.start(child(SLEEPER)) is False
    assert supervisor.run_to_end("task", [sys.executable, "-c", SLEEPER], os.environ, 10) is None
    assert supervisor.pid("child") is None


def test_a_child_that_ignores_sigterm_is_killed_after_its_grace(
    supervisor: Supervisor, written: io.StringIO
) -> None:
    supervisor.start(child(DEAF, grace_s=0.2))
    eventually(lambda: "deaf" in written.getvalue())
    pid = pid_of(supervisor)
    supervisor.stop()
    assert is_gone(pid)
    assert "still there after" in written.getvalue()


def test_a_second_request_hurries(supervisor: Supervisor, written: io.StringIO) -> None:
    supervisor.start(child(DEAF, grace_s=600.0))
    eventually(lambda: "deaf" in written.getvalue())
    hurry = threading.Timer(0.2, supervisor.request_stop)
    hurry.start()
    supervisor.request_stop()
    started_at = time.monotonic()
    supervisor.stop()
    hurry.join()
    assert time.monotonic() - started_at < 300


def test_what_a_child_left_behind_in_its_group_ends_too(supervisor: Supervisor, written: io.StringIO) -> None:
    supervisor.start(child(PARENT))
    eventually(lambda: "pid" in written.getvalue())
    grandchild = int(written.getvalue().split("pid ")[1].split()[0])
    supervisor.stop()
    eventually(lambda: is_gone(grandchild))


def test_a_stop_request_ends_the_wait_for_a_slow_start(supervisor: Supervisor) -> None:
    asked = threading.Timer(0.2, supervisor.request_stop)
    asked.start()
    assert supervisor.start(child(SLEEPER, is_ready=lambda _pid: False)) is False
    asked.join()


def test_a_command_run_to_its_end_gives_its_output_and_logs_its_errors(
    supervisor: Supervisor, written: io.StringIO
) -> None:
    code = "import sys; print('data'); print('note', file=sys.stderr)"
    assert supervisor.run_to_end("task", [sys.executable, "-c", code], os.environ, 200) == "data\n"
    assert written.getvalue() == "task     │ note\n"


def test_a_command_that_fails_is_an_error(supervisor: Supervisor) -> None:
    with pytest.raises(StackError, match="task ended with exit code 3"):
        supervisor.run_to_end("task", [sys.executable, "-c", "raise SystemExit(3)"], os.environ, 200)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_child_outlives_a_supervisor_that_was_killed(number: signal.Signals) -> None:
    program = f"""
import os, sys, time
from alexq.stack.log import Log
from alexq.stack.supervisor import Child, Supervisor
supervisor = Supervisor(Log())
supervisor.start(Child("deaf", [sys.executable, "-u", "-c", {DEAF!r}], os.environ, is_ready=lambda pid: True))
print(supervisor.pid("deaf"), flush=True)
time.sleep(600)
"""
    argv = [sys.executable, "-c", program]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stderr is not None
        pid = int(owner.stdout.readline())
        assert "deaf" in owner.stderr.readline()
        owner.send_signal(number)
        owner.wait(60)
    eventually(lambda: is_gone(pid), timeout_s=60)


def test_a_stop_may_be_asked_for_from_a_signal_handler(supervisor: Supervisor) -> None:
    before: Callable[..., object] | int | None = signal.signal(
        signal.SIGUSR1, lambda *_: supervisor.request_stop()
    )
    ring = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1))
    try:
        ring.start()
        supervisor.watch()
    finally:
        ring.join()
        signal.signal(signal.SIGUSR1, before)
    assert supervisor.is_stopping
