"""Small pictures: never the file that a stranger sent."""

from __future__ import annotations

from io import BytesIO

import pytest
from PIL import Image

from alexq_monitor.thumbnails import SIDE, thumbnail
from alexq_schema.errors import ImageCorruptError, ImageTooLargeError, ImageTooManyPixelsError
from tests.helpers.photos import encode, photo_crops

LIMITS = {"max_bytes": 10_000_000, "max_pixels": 4_000_000}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_what_is_served_is_a_small_new_picture(kind: str) -> None:
    original = encode(photo_crops(1, (1_200, 900))[0], kind)
    small = thumbnail(original, **LIMITS)
    with Image.open(BytesIO(small)) as image:
        assert image.format == "WEBP"
        assert max(image.size) == SIDE
        assert image.size[0] * 3 == image.size[1] * 4
    assert len(small) < 60_000


def test_nothing_of_the_file_but_its_pixels_is_served() -> None:
    exif = Image.Exif()
    exif[0x010E] = "<script>alert(1)</script>"
    data = encode(photo_crops(1)[0], exif=exif) + b"<script>alert(2)</script>"
    assert b"alert(1)" in data
    assert b"alert" not in thumbnail(data, **LIMITS)


def test_what_is_too_large_is_not_decoded() -> None:
    data = encode(Image.new("L", (3_000, 3_000)), "PNG")
    with pytest.raises(ImageTooManyPixelsError):
        thumbnail(data, **LIMITS)
    with pytest.raises(ImageTooLargeError):
        thumbnail(data, max_bytes=100, max_pixels=10**9)


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\xff\xd8\xff\xe0"]
)
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(ImageCorruptError):
        thumbnail(data, **LIMITS)


def test_a_truncated_picture_is_refused() -> None:
    with pytest.raises(ImageCorruptError):
        thumbnail(encode(photo_crops(1)[0])[:2_000], **LIMITS)
