"""What Schemathesis cannot know of the gateway: pictures, archives of them, and lines of JSON."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from typing import Any

import schemathesis
from hypothesis import strategies as st
from PIL import Image

from tests.helpers.photos import encode

_PICTURE = encode(Image.linear_gradient("L").convert("RGB"))


def _tar() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("a.jpg")
        member.size = len(_PICTURE)
        archive.addfile(member, io.BytesIO(_PICTURE))
    return packed.getvalue()


def _zip() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.jpg", _PICTURE)
    return packed.getvalue()


_JUNK = st.binary(max_size=1_000)

for kind in ("image/jpeg", "image/png", "image/webp", "image/gif", "application/octet-stream"):
    schemathesis.openapi.media_type(kind, st.just(_PICTURE) | _JUNK)
schemathesis.openapi.media_type("application/x-tar", st.just(_tar()) | _JUNK)
schemathesis.openapi.media_type("application/zip", st.just(_zip()) | _JUNK)


@schemathesis.serializer("application/x-ndjson")
def lines(_context: Any, value: Any) -> bytes:
    """Return one line of JSON."""
    return value if isinstance(value, bytes) else json.dumps(value).encode()
