"""Starts processes by forking an interpreter that has imported what they need already.

    python -m benchmarks.chaos.nursery MODULE …   (a JSON request a line on stdin, JSON news on stdout)

Importing takes four of the seven seconds of CPU that a worker's start costs, and the campaign starts fifty
on two cores, six hundred in the full profile. Nothing has run before the fork but imports; then the
program's own ``__main__`` runs, in a session of its own.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.chaos.processes import Processes

POLL_S = 0.05
START_S = 300.0
WORKER = ("alexq_worker.app",)


class Child:
    """A forked process; the part of ``Popen`` that fleet and tests use."""

    def __init__(self, nursery: Nursery, number: int, pid: int) -> None:
        self._nursery = nursery
        self._number = number
        self.pid = pid

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._nursery.codes.get(self._number)

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code.

        Raises:
            subprocess.TimeoutExpired: it did not come in time.
        """
        with self._nursery.news:
            if not self._nursery.news.wait_for(lambda: self.returncode is not None, timeout):
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        code = self.returncode
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM, if it still runs."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL, if it still runs."""
        self.send_signal(signal.SIGKILL)


class Nursery:
    """Whose processes it starts. Any thread may start children; one thread reads the news."""

    def __init__(self, processes: Processes, log: Path, modules: Sequence[str] = WORKER) -> None:
        """Start one.

        Args:
            modules: what it imports.
        """
        env = {**os.environ, "OMP_NUM_THREADS": "1"}  # read once, when the library is loaded
        argv = [sys.executable, "-m", "benchmarks.chaos.nursery", *modules]
        self._process = processes.start(argv, log=log, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.news = threading.Condition()
        self.codes: dict[int, int] = {}
        """By the number of the request, as a process id may be another child's later."""
        self._started: dict[int, int] = {}
        self._requests = 0
        threading.Thread(target=self._read, name="nursery", daemon=True).start()

    def start(
        self,
        program: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str],
        errors: Path | None = None,
        given: Path | None = None,
    ) -> Child:
        """Fork a child that runs ``program``: ``-m`` and a module or ``-c`` and code, its arguments.

        Args:
            errors: where its stderr goes, if not to ``log`` too.
            given: its stdin, if it is to read anything.

        Raises:
            TimeoutError: the nursery does not answer.
        """
        assert self._process.stdin is not None
        with self.news:
            self._requests += 1
            number = self._requests
            request = {
                "number": number,
                "program": list(program),
                "files": [str(given or os.devnull), str(log), str(errors or log)],
                "env": dict(env),
            }
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            if not self.news.wait_for(lambda: number in self._started, START_S):
                raise TimeoutError("the nursery does not answer")
            return Child(self, number, self._started[number])

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                told = json.loads(line)
                with self.news:
                    if "pid" in told:
                        self._started[told["number"]] = told["pid"]
                    else:
                        self.codes[told["number"]] = told["code"]
                    self.news.notify_all()


def main() -> None:
    """Serve requests until stdin ends, then kill what is left; in a child, run its program."""
    for module in sys.argv[1:]:
        importlib.import_module(module)
    if "torch" in sys.modules:
        from alexq_worker.inference.torchvision_ops import import_torchvision

        import_torchvision()
    gc.freeze()  # a child's collector must not touch what is shared
    requests = b""
    children: dict[int, int] = {}
    while True:
        if select.select([0], [], [], POLL_S)[0]:
            if not (read := os.read(0, 65_536)):  # whose they are is gone
                for pid in children:
                    os.kill(pid, signal.SIGKILL)
                return
            requests += read
        while b"\n" in requests:
            line, requests = requests.split(b"\n", 1)
            told = json.loads(line)
            if (pid := os.fork()) == 0:
                become(told)
            children[pid] = told["number"]
            say({"number": told["number"], "pid": pid})
        reap(children)


def reap(children: dict[int, int]) -> None:
    """Tell of children that have ended, and forget them."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        say({"number": children.pop(pid, 0), "code": os.waitstatus_to_exitcode(status)})


def say(news: dict[str, Any]) -> None:
    """Write one line to the campaign."""
    os.write(1, json.dumps(news).encode() + b"\n")


def become(told: dict[str, Any]) -> NoReturn:
    """Turn this fork into the program, and end as an interpreter does.

    All but the last of that: taking every imported object apart would copy the pages that it shares with
    this fork's parent, and takes a second of CPU.
    """
    try:
        run(told)
        code = 0
    except SystemExit as ending:
        code = 0 if ending.code is None else ending.code if isinstance(ending.code, int) else 1
        if isinstance(ending.code, str):
            print(ending.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 - as an interpreter shows it
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads that are not daemons
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def run(told: dict[str, Any]) -> None:
    """Run the program in a session of its own."""
    os.setsid()
    for target, path in enumerate(told["files"]):
        how = os.O_WRONLY | os.O_CREAT | os.O_APPEND if target else os.O_RDONLY
        os.dup2(os.open(path, how, 0o644), target)
    os.environ.clear()
    os.environ.update(told["env"])
    kind, what, *arguments = told["program"]
    if kind == "-c":
        sys.argv = [kind, *arguments]
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = [what, *arguments]
        runpy.run_module(what, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
