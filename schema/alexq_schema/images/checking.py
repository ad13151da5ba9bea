"""What can be told of an image without decoding it."""

from __future__ import annotations

from alexq_schema.errors import ImageEmptyError, ImageTooLargeError, ImageTypeError

HEAD_BYTES = 16
"""The first bytes, enough to tell an image's type."""


def check_image(data: bytes, source: str, max_bytes: int) -> None:
    """Check what can be told without decoding: size, and the type from the first bytes.

    Raises:
        ImageEmptyError, ImageTooLargeError, ImageTypeError: each names ``source``.
    """
    check_head(data[:HEAD_BYTES], len(data), source, max_bytes)


def check_head(head: bytes, image_bytes: int, source: str, max_bytes: int) -> None:
    """Check an image by its first ``HEAD_BYTES`` and its size; raises as :func:`check_image`."""
    if not image_bytes:
        raise ImageEmptyError(f"{source}: the file is empty")
    if image_bytes > max_bytes:
        raise ImageTooLargeError(
            f"{source}: {image_bytes:,} bytes, allowed are {max_bytes:,} (ALEXQ_MAX_IMAGE_BYTES)"
        )
    if not _is_accepted_type(head):
        raise ImageTypeError(
            f"{source}: not an image that alexq accepts (JPEG, PNG, WebP, GIF); it begins with {head[:8]!r}"
        )


def _is_accepted_type(head: bytes) -> bool:
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return is_webp or head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a"))
