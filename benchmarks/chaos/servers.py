"""The servers that a scenario breaks: a Redis-protocol broker and a PostgreSQL, each of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import time
import warnings
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped,unused-ignore]
import redis
import sqlalchemy
from redis.backoff import NoBackoff
from redis.retry import Retry

from alexq.stack.broker import EmbeddedBroker
from alexq.stack.environment import free_port
from benchmarks.chaos.processes import Processes, kill_tree, signal_tree, tail

READY_S = 60.0


class Broker:
    """One real server on one port, with its data in ``folder``."""

    def __init__(self, processes: Processes, folder: Path, *, aof: bool = True) -> None:
        self._processes = processes
        self._aof = aof
        self._config = EmbeddedBroker.configure(folder)
        self._process: subprocess.Popen[bytes] | None = None
        self.url = self._config.url
        self.log = folder / "server.log"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        argv = [*self._config.argv, "--appendonly", "yes" if self._aof else "no"]
        self._process = self._processes.start(argv, log=self.log)
        self._processes.wait_for(self._config.is_ready, READY_S, what="the broker answers", every_s=0.05)

    @property
    def pid(self) -> int:
        """The server's process id."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL: what its AOF has, if it has one, is all that stays."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    def restart(self) -> None:
        """Stop in good order and start again."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(30)
        self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def client(self) -> redis.Redis:
        """Return a client that gives up soon; close it."""
        return redis.Redis.from_url(self.url, socket_timeout=5, retry=Retry(NoBackoff(), 0))

    def flush(self) -> None:
        """FLUSHALL: every message is gone."""
        with self.client() as client:
            client.flushall()

    def info(self, section: str) -> dict[str, Any]:
        """Return a section of INFO."""
        with self.client() as client:
            answer: dict[str, Any] = client.info(section)
            return answer

    def limit_memory(self, above_use_bytes: int | None) -> None:
        """Refuse writes that need more than ``above_use_bytes`` above the present use; None lifts it."""
        limit = 0 if above_use_bytes is None else int(self.info("memory")["used_memory"]) + above_use_bytes
        with self.client() as client:
            client.config_set("maxmemory", limit)


class PostgresBinaries:
    """Where PostgreSQL's programs are, and as whom they run: they refuse to run as root."""

    def __init__(self) -> None:
        self.user: tuple[int, int] | None = None
        if os.geteuid() != 0 and shutil.which("initdb") and shutil.which("postgres"):
            self.folder = Path(str(shutil.which("initdb"))).resolve().parent
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # platformdirs' remark on a missing XDG_RUNTIME_DIR
            import pgserver.utils
            from pgserver._commands import POSTGRES_BIN_PATH

        self.folder = POSTGRES_BIN_PATH
        if os.geteuid() == 0:
            pgserver.utils.ensure_user_exists("pgserver")
            pgserver.utils.ensure_prefix_permissions(POSTGRES_BIN_PATH)
            for folder, rights in ((POSTGRES_BIN_PATH, 0o755), (POSTGRES_BIN_PATH.parent / "lib", 0o644)):
                pgserver.utils.ensure_folder_permissions(folder, rights)
            entry = pwd.getpwnam("pgserver")
            self.user = (entry.pw_uid, entry.pw_gid)

    def run(self, program: str, *arguments: str) -> str:
        """Run one of the programs to its end and return what it printed."""
        as_user: dict[str, Any] = {}
        if self.user is not None:
            as_user = {"user": self.user[0], "group": self.user[1], "extra_groups": []}
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [str(self.folder / program), *arguments],
            check=True,
            capture_output=True,
            text=True,
            cwd="/",
            **as_user,
        )
        return done.stdout

    def own(self, folder: Path) -> None:
        """Give ``folder``, and what is in it, to the user that PostgreSQL runs as."""
        if self.user is not None:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, *self.user, follow_symlinks=False)

    def make_template(self, folder: Path) -> Path:
        """Make a cluster that servers copy, and return its folder."""
        folder.mkdir()
        self.own(folder)
        self.run("initdb", "-U", "postgres", "-A", "trust", "-E", "utf8", "--no-sync", "-D", str(folder))
        return folder


class PostgreSQL:
    """One server with a copy of the template cluster."""

    def __init__(
        self,
        processes: Processes,
        binaries: PostgresBinaries,
        template: Path,
        folder: Path,
        address: str = "127.0.0.1",
    ) -> None:
        """Prepare one that listens on ``address``."""
        self._processes = processes
        self._binaries = binaries
        self.data = folder / "data"
        folder.mkdir(exist_ok=True)
        shutil.copytree(template, self.data)
        self.data.chmod(0o700)
        binaries.own(self.data)
        self._address = address
        self._port = free_port("127.0.0.1")
        self._process: subprocess.Popen[bytes] | None = None
        self.log = folder / "server.log"
        self.url = f"postgresql+psycopg://postgres@{address}:{self._port}/postgres"
        self._admin = sqlalchemy.create_engine(
            self.url,
            isolation_level="AUTOCOMMIT",
            poolclass=sqlalchemy.NullPool,
            connect_args={"connect_timeout": 2},
        )

    def start(self) -> None:
        """Start the server and wait until it answers."""
        argv = [str(self._binaries.folder / "postgres"), "-D", str(self.data), "-p", str(self._port)]
        for option in (
            f"listen_addresses={self._address}",
            "unix_socket_directories=",
            "max_connections=200",
        ):
            argv += ["-c", option]
        deadline = time.monotonic() + READY_S
        while True:
            self._process = self._processes.start(argv, log=self.log, user=self._binaries.user)
            while self._process.poll() is None:
                if self._answers():
                    return
                self._processes.sleep(0.1)
            if time.monotonic() > deadline:
                raise TimeoutError(f"PostgreSQL does not start:\n{tail(self.log)}")
            self._processes.sleep(0.2)  # a killed server's shared memory may not be free yet

    def _answers(self) -> bool:
        try:
            self.command("SELECT 1")
        except sqlalchemy.exc.SQLAlchemyError:
            return False
        return True

    def command(self, sql: str) -> None:
        """Run one statement on a connection of its own."""
        with self._admin.connect() as connection:
            connection.exec_driver_sql(sql)

    def version(self) -> str:
        """Return the server's version."""
        return self._binaries.run("postgres", "--version").split()[-1]

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL the server and all its backends, as a machine that loses power."""
        assert self._process is not None
        kill_tree(self.pid)
        self._process.wait(10)

    def stop(self) -> None:
        """Stop at once but in good order: sessions are ended (SIGINT, "fast")."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        self._process.wait(60)

    def terminate_backends(self) -> None:
        """End every session but our own."""
        try:
            self.command(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                " AND backend_type = 'client backend'"
            )
        except sqlalchemy.exc.SQLAlchemyError:
            return  # the server is away: no session is left

    def pause(self) -> None:
        """SIGSTOP server and backends: connections stay open and nothing answers."""
        signal_tree(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        signal_tree(self.pid, signal.SIGCONT)

    def gone(self) -> bool:
        """Return whether the server's process has ended."""
        return not psutil.pid_exists(self.pid)
