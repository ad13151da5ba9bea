"""Whether a part of the stack answers over HTTP, and where it does."""

from __future__ import annotations

import http.client
from typing import Final

_PROBE_S: Final = 1.0


def url_of(address: str, port: int) -> str:
    """Return the URL of what listens there."""
    host = f"[{address}]" if ":" in address else address
    return f"http://{host}:{port}"


def answers_http(address: str, port: int, path: str) -> bool:
    """Return whether a GET of ``path`` is answered with 200 within a second."""
    host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104
    connection = http.client.HTTPConnection(host, port, timeout=_PROBE_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
