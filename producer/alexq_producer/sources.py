"""What a caller may hand in as an image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from os import PathLike, fspath
from pathlib import Path
from typing import BinaryIO

from alexq_schema.errors import ImageNotFoundError, ImageUnreadableError, UsageError

Image = bytes | bytearray | memoryview | str | PathLike[str] | BinaryIO
"""An image's encoded bytes, a path to them, or a binary file object."""


def each(images: Image | Iterable[Image]) -> Iterator[Image]:
    """Yield the image, or each image of an iterable."""
    if is_one(images):
        yield images  # type: ignore[misc]
    elif isinstance(images, Iterable):
        yield from images  # type: ignore[misc]
    else:
        raise UsageError(f"not an image or an iterable of images: {type(images).__name__}")


def is_one(images: object) -> bool:
    """Return whether ``images`` is one image: files and bytes are iterable, but not of images."""
    return isinstance(images, bytes | bytearray | memoryview | str | PathLike) or hasattr(images, "read")


def name_of(image: Image, position: int) -> str:
    """Return what to call ``image`` in results and errors."""
    if isinstance(image, str | PathLike):
        return fspath(image)
    name = getattr(image, "name", None)
    return name if isinstance(name, str) else f"image {position}"


def read(image: Image, name: str, max_bytes: int) -> bytes:
    """Return the encoded bytes: up to ``max_bytes + 1``, so that one over the limit shows as such.

    Raises:
        ImageNotFoundError: there is no such file.
        ImageUnreadableError: it is a folder, or not to be read by us.
        UsageError: ``image`` is of no type that :data:`Image` lists.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, bytearray | memoryview):
        return bytes(image)
    try:
        if isinstance(image, str | PathLike):
            with Path(image).open("rb") as file:
                return file.read(max_bytes + 1)
        data = image.read(max_bytes + 1)
    except FileNotFoundError as error:
        raise ImageNotFoundError(f"{name}: there is no such file") from error
    except OSError as error:
        raise ImageUnreadableError(f"{name}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a closed file, or a path that no file can have
        raise ImageUnreadableError(f"{name!r}: cannot be read: {error}") from error
    except AttributeError as error:
        raise UsageError(f"{name}: not bytes, a path or a binary file: {type(image).__name__}") from error
    if not isinstance(data, bytes):
        raise UsageError(f"{name}: opened as text; open it in binary mode")
    return data
