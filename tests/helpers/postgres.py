"""A PostgreSQL server for tests: binaries on PATH, else the ``pgserver`` wheel."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import socket
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import sqlalchemy


class PostgresServer:
    """A running server that makes databases."""

    def __init__(self, url: str, stop: Callable[[], None]) -> None:
        self._url = sqlalchemy.make_url(url)
        self._admin = sqlalchemy.create_engine(
            self._url.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT"
        )
        self._numbers = itertools.count()
        self._stop = stop
        # No test outlives the machine; and what PostgreSQL knows of a table is what a test has it count.
        for setting in ("fsync", "full_page_writes", "synchronous_commit", "autovacuum"):
            self._command(f"ALTER SYSTEM SET {setting} = off")
        self._command("SELECT pg_reload_conf()")

    @classmethod
    def start(cls, folder: Path) -> PostgresServer | None:
        """Start a server with its data in ``folder``, or return None where there is no PostgreSQL."""
        if shutil.which("initdb") and shutil.which("postgres") and os.geteuid() != 0:
            return cls._start_installed(folder)  # PostgreSQL's own programs refuse to run as root
        with contextlib.suppress(ImportError):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # platformdirs' remark on a missing XDG_RUNTIME_DIR
                import pgserver

                # Not below pytest's own folder, which is closed to the user that pgserver runs as for root.
                server = pgserver.get_server(tempfile.mkdtemp(prefix="alexq-pg-"), cleanup_mode="delete")
            return cls(server.get_uri(), server.cleanup)
        return None

    @classmethod
    def _start_installed(cls, folder: Path) -> PostgresServer:
        data = folder / "data"
        subprocess.run(
            ["initdb", "-U", "postgres", "-A", "trust", "-D", data], check=True, stdout=subprocess.DEVNULL
        )
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        options = f"-p {port} -c listen_addresses=127.0.0.1 -k {folder}"
        subprocess.run(["pg_ctl", "-D", data, "-w", "-o", options, "-l", folder / "log", "start"], check=True)

        def stop() -> None:
            subprocess.run(["pg_ctl", "-D", data, "-m", "fast", "stop"], check=True)

        return cls(f"postgresql://postgres@127.0.0.1:{port}/postgres", stop)

    @contextlib.contextmanager
    def database(self, template_url: str | None = None) -> Iterator[str]:
        """Make an empty database or a copy of one that nobody uses, yield its URL, and drop it."""
        name = f"test_{next(self._numbers)}"
        template = sqlalchemy.make_url(template_url).database if template_url else "template1"
        self._command(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield self._url.set(database=name).render_as_string(hide_password=False)
        finally:
            self._command(f"DROP DATABASE {name} WITH (FORCE)")

    @contextlib.contextmanager
    def outage(self, url: str) -> Iterator[None]:
        """Refuse connections to one database, and end those it has."""
        name = sqlalchemy.make_url(url).database
        self._command(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        self._command(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        try:
            yield
        finally:
            self._command(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")

    def _command(self, sql: str) -> None:
        with self._admin.connect() as connection:
            connection.exec_driver_sql(sql)

    def stop(self) -> None:
        """Stop the server."""
        self._admin.dispose()
        self._stop()
