"""Small pictures of images that are strangers' files.

Only what a worker has decoded is decoded here: its defences have met the file before. What is served is a new
picture, made of pixels alone.
"""

from __future__ import annotations

import warnings
from io import BytesIO
from typing import Final

from PIL import Image

from alexq_schema.errors import ImageCorruptError, ImageTooLargeError, ImageTooManyPixelsError

SIDE: Final = 480
"""Pixels of the longer side, at most."""
_FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF")
_QUALITY: Final = 80


def thumbnail(data: bytes, *, max_bytes: int, max_pixels: int) -> bytes:
    """Return a small WebP of an image.

    Raises:
        ImageTooLargeError: it has more bytes.
        ImageTooManyPixelsError: it has more pixels.
        ImageCorruptError: it is no picture that can be read.
    """
    if len(data) > max_bytes:
        raise ImageTooLargeError(f"{len(data)} bytes are more than {max_bytes}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the size is checked here, broken metadata does not matter
            with Image.open(BytesIO(data), formats=_FORMATS) as image:
                if image.width * image.height > max_pixels:
                    raise ImageTooManyPixelsError(f"{image.width}×{image.height} pixels are too many")
                image.draft("RGB", (SIDE, SIDE))  # a JPEG is read at a fraction of its size
                small = image.convert("RGB")
                small.thumbnail((SIDE, SIDE))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageCorruptError(f"it cannot be read: {error}") from error
    out = BytesIO()
    small.save(out, "WEBP", quality=_QUALITY, method=2)
    return out.getvalue()
