"""The services of docker-compose.yml as processes of this machine.

What a container would run is run: the entrypoint of its image, its command, its variables, its health check.
Only what a container has for itself is put in its place, in one pass over each text: a service's name and
``0.0.0.0`` become a loopback address of its own, so that ports stay what they are; paths in the container
become paths below one folder; ``alexq``, ``python`` and the servers' programs are those that are here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from alexq.stack.broker import find_server
from benchmarks.chaos.nursery import Child
from benchmarks.chaos.processes import kill_tree
from benchmarks.chaos.servers import PostgresBinaries
from tests.helpers import compose, dockerfile, nursery
from tests.helpers.eventually import eventually

ALEXQ_IMAGES = {"alexq-gateway": "gateway", "alexq-worker": "worker", "alexq-monitor": "monitor"}

REDIS_CLI = """
import sys, redis
_, _, host, _, port, command = sys.argv
print("PONG" if redis.Redis(host, int(port)).execute_command(command) else "")
"""
"""Stands in for redis-cli, of which only ``-h HOST -p PORT ping`` is needed, where it is not there."""


class Composed:
    """A project: its services, each with an address and a folder."""

    def __init__(self, variables: Mapping[str, str], settings: Mapping[str, str]) -> None:
        """Prepare; nothing runs yet.

        Args:
            variables: as in ``.env``.
            settings: as in ``alexq.env``.
        """
        # Not below pytest's folder, which is closed to the user that PostgreSQL runs as for root.
        self.folder = Path(tempfile.mkdtemp(prefix="alexq-compose-"))
        self.folder.chmod(0o755)
        self.file = compose.load(variables=variables)
        self.services: dict[str, Any] = self.file["services"]
        self.images = dockerfile.images()
        self.secrets = self.folder / "secrets"
        self.settings = settings
        self.postgres = PostgresBinaries()
        self.programs = self.folder / "bin"
        self.programs.mkdir()
        if shutil.which("redis-cli") is None:
            stand_in = self.programs / "redis-cli"
            stand_in.write_text(f"#!{sys.executable}\n{REDIS_CLI}")
            stand_in.chmod(0o755)
        random = Random()
        self._network = f"127.{random.randint(16, 250)}.{random.randint(1, 250)}"
        self._running: list[Container] = []

    def address(self, name: str, replica: int = 0) -> str:
        """Return the loopback address of a service's container."""
        return f"{self._network}.{list(self.services).index(name) * 10 + replica + 2}"

    def container(self, name: str, replica: int = 0) -> Container:
        """Return a container of a service, not running."""
        return Container(self, name, replica)

    def run(self, name: str) -> str:
        """Run a one-shot service to its end and return what it printed.

        Raises:
            AssertionError: it did not end with 0.
        """
        container = self.container(name)
        container.start()
        assert container.wait() == 0, container.said()
        return container.said()

    def up(self, name: str, replica: int = 0, *, is_forked: bool = False) -> Container:
        """Start a service as ``depends_on`` allows; return when its health check passes."""
        container = self.container(name, replica)
        if name == "postgres":
            container.make_cluster()
        container.start(is_forked=is_forked)
        self._running.append(container)
        if container.healthcheck:
            eventually(container.is_well, 300, every_s=1.0, what=f"{name} is healthy")
        if name == "postgres":
            container.make_database()
        return container

    def close(self) -> None:
        """Kill what still runs, and remove everything."""
        for container in reversed(self._running):
            container.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class Container:
    """One container of a service."""

    def __init__(self, project: Composed, name: str, replica: int) -> None:
        self.project, self.name = project, name
        self.service = project.services[name]
        self.address = project.address(name, replica)
        self.root = project.folder / f"{name}-{replica}"
        self.log = self.root / "log"
        image = self.service["image"].partition(":")[0]
        self.image = project.images[ALEXQ_IMAGES[image]] if image in ALEXQ_IMAGES else dockerfile.Image()
        self.process: subprocess.Popen[bytes] | Child | None = None
        self._paths = self._mount()
        hosts = "|".join(map(re.escape, project.services))
        paths = "|".join(map(re.escape, sorted(self._paths, key=len, reverse=True)))
        self._pattern = re.compile(
            rf"(?<=[@/])(?P<host>{hosts})(?=:\d)|(?P<own>0\.0\.0\.0|127\.0\.0\.1)|(?P<path>{paths})(?![\w.-])"
        )

    def _mount(self) -> dict[str, Path]:
        """Lay out the folders; return by path in the container where it is here."""
        paths = {
            "/tmp": self.root / "tmp",
            "/run/secrets": self.root / "secrets",
            "/data": self.root / "data",
        }
        for folder in paths.values():
            folder.mkdir(parents=True, exist_ok=True)
        for path, source in compose.mounts(self.service).items():
            kind, _, what = source.partition(":")
            if kind == "secret":
                paths[path] = paths["/run/secrets"] / what
                shutil.copy(self.project.secrets / what, paths[path])
            elif kind == "config":
                paths[path] = self.root / Path(path).name
            else:
                paths[path] = self.project.secrets if "secrets" in source else self.project.folder / source
                paths[path].mkdir(parents=True, exist_ok=True)
        return paths

    def here(self, text: str) -> str:
        """Return ``text`` with what is a container's own put in its place."""

        def put(found: re.Match[str]) -> str:
            if found["host"]:
                return self.project.address(found["host"])
            return self.address if found["own"] else str(self._paths[found["path"]])

        return self._pattern.sub(put, text)

    @property
    def env(self) -> dict[str, str]:
        """Its variables: the image's, those of ``alexq.env``, the file's own; nothing of this process's."""
        image = {name: value for name, value in self.image.env.items() if name != "PATH"}
        named = self.project.settings if "env_file" in self.service else {}
        own = {**image, **named, **compose.environment(self.service)}
        given = {name: self.here(value) for name, value in own.items()}
        python = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        python["PATH"] = f"{self.project.programs}{os.pathsep}{python['PATH']}"
        return {**python, **given, "OMP_NUM_THREADS": "1"}

    def argv(self, words: Sequence[str]) -> list[str]:
        """Return a command as it is here."""
        program, *arguments = [self.here(word) for word in words if word not in ("/usr/bin/tini", "--")]
        known = {
            "alexq": [sys.executable, "-m", "alexq"],
            "python": [sys.executable],
            "redis-server": [str(find_server())],
            "postgres": [str(self.project.postgres.folder / "postgres")],
            "pg_isready": [str(self.project.postgres.folder / "pg_isready")],
        }
        return [*known.get(program, [program]), *arguments]

    @property
    def command(self) -> list[str]:
        """What its container runs."""
        return self.argv([*self.image.entrypoint, *(self.service.get("command") or self.image.command)])

    @property
    def healthcheck(self) -> list[str]:
        """What its container's health is judged by; empty: nothing."""
        check = self.service.get("healthcheck", {})
        if check.get("disable"):
            return []
        kind, *words = check.get("test") or ["CMD", *self.image.healthcheck]
        return ["sh", "-c", self.here(words[0])] if kind == "CMD-SHELL" else self.argv(words) if words else []

    def execute(self, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command that is as it is here, beside the service, as ``docker exec`` does."""
        return subprocess.run(argv, env=self.env, capture_output=True, text=True, timeout=200, check=False)

    def is_well(self) -> bool:
        """Return whether its health check passes; it has not ended."""
        assert self.process is None or self.process.poll() is None, self.said()
        return self.execute(self.healthcheck).returncode == 0

    def start(self, *, is_forked: bool = False) -> None:
        """Start it; a fork of the tests' nursery begins where ``alexq NAME`` would have become it."""
        for path, source in compose.mounts(self.service).items():
            if source.startswith("config:"):
                file = compose.ROOT / self.project.file["configs"][source.partition(":")[2]]["file"]
                self._paths[path].write_text(self.here(file.read_text()))
        if is_forked:
            self.process = nursery.start(["-m", "alexq_worker"], log=self.log, env=self.env)
            return
        argv, user = self.command, None
        if self.name == "postgres":  # what its image adds
            data = self._paths["/var/lib/postgresql/data"]
            argv += ["-D", str(data), "-c", f"listen_addresses={self.address}"]
            argv += ["-c", "unix_socket_directories="]
            user = self.project.postgres.user
        as_user: dict[str, Any] = (
            {} if user is None else {"user": user[0], "group": user[1], "extra_groups": []}
        )
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                argv, env=self.env, cwd=self._paths["/data"], stdout=log, stderr=log, **as_user
            )

    def make_cluster(self) -> None:
        """Do what PostgreSQL's image does first: a cluster whose one user has the password in the secret."""
        data, env = self._paths["/var/lib/postgresql/data"], self.env
        self.project.postgres.own(data)
        secret = Path(env["POSTGRES_PASSWORD_FILE"])
        secret.parent.parent.chmod(0o755)
        self.project.postgres.run(
            *("initdb", "--no-sync", "-A", "scram-sha-256", "-D", str(data), "-U", env["POSTGRES_USER"]),
            f"--pwfile={secret}",
        )

    def make_database(self) -> None:
        """Make the database that its image makes."""
        env = self.env
        password = Path(env["POSTGRES_PASSWORD_FILE"]).read_text().strip()
        url = f"postgresql://{env['POSTGRES_USER']}:{password}@{self.address}:5432/postgres"
        self.project.postgres.run("psql", url, "-c", f"CREATE DATABASE {env['POSTGRES_DB']}")

    def stop(self, timeout_s: float = 150.0) -> int:
        """Send SIGTERM and return the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout_s)

    def wait(self, timeout_s: float = 300.0) -> int:
        """Return the exit code when it has ended."""
        assert self.process is not None
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        """Kill it, if it still runs, and what it started."""
        if self.process is not None and self.process.poll() is None:
            kill_tree(self.process.pid)
            self.process.wait(60)

    def said(self) -> str:
        """Return what it printed."""
        return self.log.read_text(errors="replace")
