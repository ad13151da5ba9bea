"""From whatever a service holds as an image to a body that can be sent any number of times."""

from __future__ import annotations

import base64
import io
import json
import tarfile
import tempfile
from collections.abc import Iterator
from types import TracebackType
from typing import Any, BinaryIO, Final, Self, cast

from alexq_producer import sources
from alexq_producer.submission import Rejection
from alexq_schema.errors import ImageError, UsageError
from alexq_schema.outward import named

MEMORY_BYTES: Final = 2**24
"""A submission that packs to more than this is packed into a temporary file."""

TAR: Final = "application/x-tar"
LINES: Final = "application/x-ndjson"

MAX_IMAGE_BYTES: Final = 2**31
"""No gateway takes more; what it takes is its own affair."""


def is_one(images: object) -> bool:
    """Return whether ``images`` is one image: arrays are iterable, but not of images."""
    return sources.is_one(images) or bool({"numpy", "PIL"} & _origins(images))


def encoded(image: Any, position: int) -> tuple[str, bytes]:
    """Return what to call an image and its encoded bytes; pixels become a PNG, which loses nothing.

    Args:
        image: encoded bytes, a path, a binary file, a Pillow image, or a NumPy array of uint8: [H, W] or
            [H, W, 3 or 4].

    Raises:
        ImageNotFoundError, ImageUnreadableError: there is no such file, or it cannot be read.
        UsageError: it is nothing that an image can be made of.
    """
    if "numpy" in _origins(image):
        image = _from_array(image)
    if "PIL" in _origins(image):
        packed = io.BytesIO()
        try:
            image.save(packed, "PNG")
        except OSError as error:
            raise UsageError(f"image {position}: {error}; convert it to RGB first") from error
        return getattr(image, "filename", "") or f"image {position}", packed.getvalue()
    name = sources.name_of(image, position)
    return name, sources.read(image, name, MAX_IMAGE_BYTES)


def _origins(image: object) -> set[str]:
    """Return the packages that the class of ``image`` comes from: none of them need be installed."""
    return {base.__module__.partition(".")[0] for base in type(image).__mro__}


def _from_array(array: Any) -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise UsageError("an array needs Pillow to become a picture: pip install pillow") from error
    told = f"{array.dtype} {list(array.shape)} is no picture: give uint8 [H, W] or [H, W, 3 or 4]"
    if str(array.dtype) != "uint8":
        raise UsageError(f"an array {told}")
    try:
        return Image.fromarray(array)
    except (TypeError, ValueError) as error:
        raise UsageError(f"an array {told}") from error


def url_of(image: object) -> str | None:
    """Return the URL, which the gateway fetches, where an image is given by one."""
    return image if isinstance(image, str) and image.startswith(("http://", "https://")) else None


def utf8(name: str) -> str:
    """Return a file's name, which may be any bytes, as text that a URL or JSON can hold."""
    return name.encode("utf-8", "replace").decode()[:1024]


class Packer:
    """Packs images, as they come, into a body that can be sent again: a tar, or, with URLs, lines of JSON."""

    def __init__(self, *, skips_rejected: bool) -> None:
        """Prepare.

        Args:
            skips_rejected: whether an image that cannot be read is listed in ``refused`` instead of raised.
        """
        self.refused: list[Rejection] = []
        self.content_type = TAR
        self._skips_rejected = skips_rejected
        self._file = _spool()
        self._archive = tarfile.open(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._archive.close()
        self._file.close()

    def add(self, image: Any) -> None:
        """Pack one image; raises as :func:`encoded`."""
        url = url_of(image)
        if url is not None:
            self._turn_to_lines()
            self._add_line(image_url=url)
            return
        try:
            name, data = encoded(image, self._count)
        except ImageError as error:
            if not self._skips_rejected:
                raise
            self.refused.append(Rejection(sources.name_of(image, self._count), error))
            return
        if self.content_type == LINES:
            self._add_line(source=utf8(name), image_base64=base64.b64encode(data).decode())
            return
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self._archive.addfile(member, io.BytesIO(data))
        self._count += 1

    def _add_line(self, **reference: str) -> None:
        self._file.write(json.dumps(reference).encode() + b"\n")
        self._count += 1

    def _turn_to_lines(self) -> None:
        """Pack as lines from now on, with what was packed so far: a tar holds no URLs."""
        if self.content_type == LINES:
            return
        self._archive.close()
        self.content_type, packed, self._file, self._count = LINES, self._file, _spool(), 0
        with packed:
            for name, data in unpacked_tar(packed):
                self._add_line(source=utf8(name), image_base64=base64.b64encode(data).decode())

    def finish(self) -> BinaryIO | None:
        """Return the body, or None where every image was refused.

        Raises:
            UsageError: there was no image.
        """
        self._archive.close()
        if not self._count and not self.refused:
            raise UsageError("nothing to submit: the call held no image")
        return self._file if self._count else None


def _spool() -> BinaryIO:
    return cast(BinaryIO, tempfile.SpooledTemporaryFile(MEMORY_BYTES))


def unpacked_tar(packed: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """Yield the name and bytes of each image in a tar that was packed here."""
    packed.seek(0)
    with tarfile.open(fileobj=packed) as archive:
        for member in archive:
            content = archive.extractfile(member)
            assert content is not None
            yield member.name, content.read()


def unpacked_line(line: bytes) -> tuple[str, bytes]:
    """Return the name and bytes of an image in a line that was packed here; of one at a URL, the URL's."""
    reference = json.loads(line)
    if url := reference.get("image_url"):
        return named(url), url.encode()
    return reference["source"], base64.b64decode(reference["image_base64"])
