"""What of an image file its pixels are made of: a walk through the containers, before Pillow sees them.

Pillow's readers go through a header in Python and keep what they find, so 20 MB of comments, profiles or
crumbs cost them minutes or a gigabyte (measured: 12 s and 900 MB). They are handed only the parts that
pixels are made of. WebP needs none of this: libwebp skips what it does not need.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from alexq_schema.errors import ImageCorruptError, ImageTruncatedError

_MAX_PARTS = 100_000
"""Segments, chunks or blocks of one file: thousands are common in large pictures, millions are an attack."""

_MAX_HEADER_BYTES = 2**18
"""What comes before the pixels and shapes them: tables, palettes. Real files have 1 kB."""

MAX_SCANS = 100
"""Encoders make ten; an empty one costs a few bytes and a walk over the whole picture."""


@dataclass(frozen=True)
class Essence:
    """A file without what has no part in its pixels."""

    data: bytes
    is_animated: bool = False
    scans: int = 1
    """Of a JPEG: how often it goes over the picture."""
    first_scan_components: int = 0


def _jpeg_essence(data: bytes) -> Essence:
    """Drop comments and the application segments that no decoder needs; count the scans."""
    kept = [data[:2]]
    place = 2
    for _ in range(_MAX_PARTS):
        marker = _JPEG_MARKER.search(data, place)
        if marker is None:
            raise truncated("JPEG", data, "there is no scan")
        code, place = data[marker.end() - 1], marker.end()
        if code == 0xDA:
            _check_header_bytes("JPEG", kept)
            header_bytes = sum(map(len, kept))
            whole = b"".join([*kept, data[marker.start() :]])
            return Essence(
                whole,
                False,
                _jpeg_scans(whole, header_bytes),
                int.from_bytes(whole[header_bytes + 4 : header_bytes + 5]),
            )
        if code < 0xC0 or code == 0xD9:  # nothing that comes after it is looked at
            return Essence(b"".join([*kept, data[marker.start() : place]]))
        if 0xD0 <= code <= 0xD8:
            kept.append(marker[0])
            continue
        end = place + max(2, int.from_bytes(data[place : place + 2]))
        if end > len(data):
            raise truncated("JPEG", data, "a segment is cut")
        if code not in _JPEG_METADATA:
            kept.append(marker[0] + data[place:end])
        place = end
    raise _too_many_parts("JPEG")


def _jpeg_scans(data: bytes, place: int) -> int:
    """Return how many scans begin at ``place`` or after; above the limit, only that they are more."""
    if data.count(b"\xff\xda", place) == 1:
        return 1
    scans = 0
    for _ in range(_MAX_PARTS):
        marker = _JPEG_MARKER_IN_SCAN.search(data, place)
        if marker is None or marker[0] == b"\xff\xd9" or scans > MAX_SCANS:
            return scans
        scans += marker[0] == b"\xff\xda"
        place = marker.end() + max(2, int.from_bytes(data[marker.end() : marker.end() + 2]))
    raise _too_many_parts("JPEG")


def _png_essence(data: bytes) -> Essence:
    """Keep the chunks of the picture itself, up to the last that holds pixels."""
    kept = [data[:8]]
    place = 8
    has_pixels = False
    for _ in range(_MAX_PARTS):
        name = data[place + 4 : place + 8]
        end = place + 12 + int.from_bytes(data[place : place + 4])
        is_pixels = name in _PNG_PIXELS
        if has_pixels and not is_pixels and len(name) == 4:
            return Essence(b"".join([*kept, _PNG_END]))
        if end > len(data) or not name.isalpha() or name == b"IEND":  # the reader says what is wrong
            return Essence(b"".join([*kept, data[place:end]]))
        if is_pixels and not has_pixels:
            has_pixels = True
            _check_header_bytes("PNG", kept)
        if is_pixels or name in _PNG_HEADER:
            kept.append(data[place:end])
        place = end
    raise _too_many_parts("PNG")


def _gif_essence(data: bytes) -> Essence:
    """Keep the first frame and what says which of its colours is clear; look for a second."""
    if len(data) < 13:
        raise truncated("GIF", data, "its header is cut")
    place = 13 + _gif_table_bytes(data[10])
    kept = [data[:place]]
    has_frame = False
    for _ in range(_MAX_PARTS):
        block = _GIF_BLOCK.search(data, place)
        if block is None or block[0] == b";":
            return Essence(b"".join([*kept, b";" if block else b""]))
        start = block.start()
        is_frame = block[0] == b","
        if is_frame and has_frame:
            return Essence(b"".join(kept), is_animated=True)
        try:
            place = start + (11 + _gif_table_bytes(data[start + 9]) if is_frame else 2)
            place = _after_sub_blocks(data, place)
        except IndexError:
            if has_frame:
                return Essence(b"".join(kept))
            if not is_frame:
                raise truncated("GIF", data, "a block is cut") from None
            return Essence(b"".join([*kept, data[start:]]))
        if is_frame:
            _check_header_bytes("GIF", kept)
            has_frame = True
        if is_frame or (data[start + 1 : start + 3] == b"\xf9\x04" and not has_frame):
            kept.append(data[start:place])
    raise _too_many_parts("GIF")


def _gif_table_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _after_sub_blocks(data: bytes, place: int) -> int:
    while size := data[place]:
        place += size + 1
    return place + 1


def _check_header_bytes(kind: str, parts: list[bytes]) -> None:
    header_bytes = sum(map(len, parts))
    if header_bytes > _MAX_HEADER_BYTES:
        raise ImageCorruptError(
            f"the {kind} has {header_bytes:,} bytes of tables before its pixels, more than any picture "
            "needs: save it again from its source"
        )


def _too_many_parts(kind: str) -> ImageCorruptError:
    return ImageCorruptError(
        f"the {kind} is in more than {_MAX_PARTS:,} parts: save it again from its source"
    )


_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff]")
_JPEG_MARKER_IN_SCAN = re.compile(rb"\xff[^\x00\xff\x01\xd0-\xd8]")
_JPEG_METADATA = frozenset({*range(0xE1, 0xEE), 0xEF, 0xFE})  # JFIF's and Adobe's say which colours
_PNG_HEADER = frozenset({b"IHDR", b"PLTE", b"tRNS", b"acTL", b"fcTL"})
_PNG_PIXELS = frozenset({b"IDAT", b"fdAT", b"DDAT"})
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_GIF_BLOCK = re.compile(rb"[!,;]")
ESSENCE: dict[str, Callable[[bytes], Essence]] = {
    "JPEG": _jpeg_essence,
    "PNG": _png_essence,
    "WebP": Essence,  # libwebp skips what it does not need
    "GIF": _gif_essence,
}


def truncated(kind: str, data: bytes, why: str) -> ImageTruncatedError:
    return ImageTruncatedError(
        f"the {kind} ends before its picture does, after {len(data)} bytes ({why}): send the whole file"
    )
