"""PgBouncer in transaction pooling before a test's PostgreSQL: Debian's program, where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import sqlalchemy

from tests.helpers.eventually import eventually
from tests.helpers.ports import free_port

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

CONFIG = """
[databases]
{name} = host={host} port={server_port} dbname={name} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {servers}
max_client_conn = 500
logfile = {log}
{user}
"""


@contextmanager
def pgbouncer_before(database_url: str, servers: int = 3) -> Iterator[str]:
    """Run one before a database, with so few connections that clients share them; yields its URL."""
    assert PROGRAM is not None
    url = sqlalchemy.make_url(database_url)
    host = str(url.query.get("host", url.host))
    port = free_port()
    # Not below pytest's own folder: started by root, it runs as PostgreSQL's user, who owns the socket.
    with tempfile.TemporaryDirectory(prefix="alexq-pgbouncer-") as name:
        folder = Path(name)
        folder.chmod(0o777)
        config = folder / "pgbouncer.ini"
        config.write_text(
            CONFIG.format(
                name=url.database,
                host=host,
                server_port=url.port or 5432,
                port=port,
                servers=servers,
                log=folder / "log",
                user=f"user = {Path(host).owner()}" if os.geteuid() == 0 else "",
            )
        )
        process = subprocess.Popen([PROGRAM, "-q", config])
        pooled = f"postgresql://postgres@127.0.0.1:{port}/{url.database}"

        def answers() -> bool:
            assert process.poll() is None, (folder / "log").read_text()
            try:
                psycopg.connect(pooled, connect_timeout=20).close()
            except psycopg.OperationalError:
                return False
            return True

        try:
            eventually(answers, 20, what="PgBouncer answers")
            yield pooled
        finally:
            process.terminate()
            process.wait(60)
