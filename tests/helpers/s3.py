"""The S3 server of a test session, as tests see it."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from urllib.parse import urlencode
from uuid import uuid4

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}


class S3Server:
    """``python -m tests.helpers.s3_server``, a process."""

    def __init__(self, log: Path) -> None:
        """Start it."""
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.helpers.s3_server"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
            )
        assert self._process.stdout is not None
        port = self._process.stdout.readline().strip().decode()
        assert port, f"no S3 server:\n{log.read_text()}"
        self.endpoint = f"http://127.0.0.1:{port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which a process finds it."""
        return {**CREDENTIALS, "AWS_ENDPOINT_URL": self.endpoint}

    def bucket(self) -> str:
        """Make an empty bucket and return its name."""
        name = f"images-{uuid4().hex[:12]}"
        self._ask(f"/{name}", method="PUT")
        return name

    def age(self, bucket: str, key: str, by_s: float) -> None:
        """Let an object have been written so much earlier."""
        self._ask(f"/_control/age?{urlencode({'bucket': bucket, 'key': key, 'by_s': by_s})}")

    def hold(self, reads: int) -> None:
        """Forget what was counted; from now on reads are answered once so many came at once."""
        self._ask(f"/_control/hold?{urlencode({'reads': reads})}")

    def seen(self) -> dict[str, int]:
        """Return how many requests for images came since, by method, and ``reads_at_once`` at the most."""
        seen: dict[str, int] = json.loads(self._ask("/_control/seen"))
        return seen

    def _ask(self, path: str, method: str = "GET") -> bytes:
        request = urllib.request.Request(self.endpoint + path, method=method)
        with urllib.request.urlopen(request, timeout=120) as response:
            body: bytes = response.read()
        return body

    def stop(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(60)
