"""Files made to hurt a decoder: cut, bent, inflated, disguised; and what must become of each.

Everything is generated, by Pillow or byte by byte, and deterministic with the same Pillow. A name is
``group/what``. What an image must become is part of its definition: a file that only looks hostile is
classified like any other.
"""

from __future__ import annotations

import random
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from io import BytesIO

from PIL import Image

from tests.helpers.photos import encode, photo_crops, png_bomb

SUCCEEDED = "succeeded"
TYPE = ("image_type_unsupported",)
TRUNCATED = ("image_truncated",)
CORRUPT = ("image_corrupt",)
PIXELS = ("image_too_many_pixels",)
MODE = ("image_mode_unsupported",)
ANIMATED = ("image_animated",)

MAX_BYTES = 20 * 2**20
"""The default of ``ALEXQ_MAX_IMAGE_BYTES``: room for a very long header."""

SIDE = 7_000
"""49 million pixels in a square, just below the default of ``ALEXQ_MAX_IMAGE_PIXELS``."""


SIDE_OF_5_BYTES, SIDE_OF_8_BYTES = 6_400, 5_000
"""Just below what may be decoded where a pixel takes more than the 4 bytes of RGB."""


@dataclass(frozen=True)
class Hostile:
    """One file and what must become of it."""

    name: str
    data: bytes
    expected: str | tuple[str, ...]
    """``succeeded``, or the codes of the errors that may refuse it."""

    @property
    def group(self) -> str:
        """What it is aimed at."""
        return self.name.partition("/")[0]


@cache
def hostile_images() -> tuple[Hostile, ...]:
    """Return every hostile image; 400 MB, most of it a few files of nearly the largest size."""
    makers = (
        _jpeg_cut,
        _jpeg_headers,
        _jpeg_scans,
        _jpeg_metadata,
        _jpeg_bombs,
        _png_cut,
        _png_headers,
        _png_metadata,
        _png_bombs,
        _webp,
        _webp_bombs,
        _gif,
        _gif_bombs,
        _disguises,
        _other_formats,
        _modes,
    )
    images = tuple(image for make in makers for image in make())
    assert len({image.name for image in images}) == len(images)
    return images


@cache
def _photo(width: int = 64, height: int = 48) -> Image.Image:
    return photo_crops(1, (width, height))[0]


# JPEG


@cache
def _jpeg(**options: int) -> bytes:
    return encode(_photo(), "JPEG", **options)


def _segments(jpeg: bytes) -> list[tuple[int, int, int]]:
    """Return (marker, start, end) of every segment; a scan's end is that of its coded data."""
    found, place = [], 0
    while place < len(jpeg):
        marker, start = jpeg[place + 1], place
        place += 2
        if marker not in (0xD8, 0xD9):
            place += int.from_bytes(jpeg[place : place + 2])
        if marker == 0xDA:
            while jpeg[place] != 0xFF or jpeg[place + 1] in (0, *range(0xD0, 0xD8)):
                place += 1
        found.append((marker, start, place))
    return found


def _without(jpeg: bytes, marker: int) -> bytes:
    return b"".join(jpeg[start:end] for code, start, end in _segments(jpeg) if code != marker)


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def _with_segments(jpeg: bytes, *segments: bytes) -> bytes:
    """Return ``jpeg`` with ``segments`` right after its start."""
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def _patched(data: bytes, place: int, new: bytes) -> bytes:
    return data[:place] + new + data[place + len(new) :]


def _frame_at(jpeg: bytes) -> int:
    """Return where the frame header's content begins: precision, height, width, components."""
    return next(start for code, start, _ in _segments(jpeg) if code in (0xC0, 0xC1, 0xC2)) + 4


def _jpeg_cut() -> Iterator[Hostile]:
    jpeg = _jpeg(progressive=True)
    for index, (marker, start, _) in enumerate(_segments(jpeg)[1:], 1):
        before = TYPE if index == 1 else TRUNCATED  # two bytes are no signature
        yield Hostile(f"jpeg-cut/before segment {index}, {marker:02x}", jpeg[:start], before)
        if marker == 0xD9:
            continue
        yield Hostile(f"jpeg-cut/inside segment {index}, {marker:02x}", jpeg[: start + 3], TRUNCATED)
    baseline = _jpeg()
    [(_, scan, end)] = [segment for segment in _segments(baseline) if segment[0] == 0xDA]
    for part in (1, 2, 3):
        yield Hostile(f"jpeg-cut/scan {part}/4", baseline[: scan + (end - scan) * part // 4], TRUNCATED)
    yield Hostile("jpeg-cut/only the signature", b"\xff\xd8\xff", TRUNCATED)


def _jpeg_headers() -> Iterator[Hostile]:
    jpeg = _jpeg()
    frame = _frame_at(jpeg)
    yield Hostile("jpeg/height 0", _patched(jpeg, frame + 1, b"\0\0"), CORRUPT)
    dnl = _segment(0xDC, b"\0\x30")
    yield Hostile(
        "jpeg/height 0 and told later", _patched(jpeg, frame + 1, b"\0\0")[:-2] + dnl + b"\xff\xd9", CORRUPT
    )
    yield Hostile("jpeg/width 0", _patched(jpeg, frame + 3, b"\0\0"), CORRUPT)
    yield Hostile("jpeg/65500 x 65500", _patched(jpeg, frame + 1, b"\xff\xdc\xff\xdc"), PIXELS)
    yield Hostile("jpeg/12 bits", _patched(jpeg, frame, b"\x0c"), CORRUPT)
    yield Hostile("jpeg/lossless", _patched(jpeg, frame - 3, b"\xc3"), CORRUPT)
    yield Hostile("jpeg/arithmetic coding in name", _patched(jpeg, frame - 3, b"\xc9"), SUCCEEDED)
    yield Hostile("jpeg/hierarchical", _patched(jpeg, frame - 3, b"\xc5"), CORRUPT)
    for count in (0, 2, 4, 5, 255):
        yield Hostile(f"jpeg/{count} components claimed", _patched(jpeg, frame + 5, bytes([count])), CORRUPT)
    yield Hostile("jpeg/sampling factor 0", _patched(jpeg, frame + 7, b"\0"), CORRUPT)
    yield Hostile("jpeg/sampling factor 15", _patched(jpeg, frame + 7, b"\xff"), CORRUPT)
    for marker, name in ((0xDB, "quantization"), (0xC4, "Huffman")):
        # libjpeg knows the standard Huffman tables by heart, as motion JPEG leaves them out.
        expected = SUCCEEDED if marker == 0xC4 else CORRUPT
        yield Hostile(f"jpeg/no {name} tables", _without(jpeg, marker), expected)
    yield Hostile("jpeg/no frame", _without(jpeg, 0xC0), CORRUPT)
    yield Hostile("jpeg/no scan", _without(jpeg, 0xDA), CORRUPT)
    yield Hostile("jpeg/two frames", _with_segments(jpeg, jpeg[frame - 4 : frame + 15]), CORRUPT)
    yield Hostile(
        "jpeg/restart interval without restarts", _with_segments(jpeg, _segment(0xDD, b"\0\1")), SUCCEEDED
    )
    restarts = encode(_photo(), "JPEG", restart_marker_rows=1)
    swapped = restarts.replace(b"\xff\xd0", b"\xff\xd5").replace(b"\xff\xd1", b"\xff\xd0")
    yield Hostile("jpeg/restarts out of order", swapped, SUCCEEDED)
    yield Hostile("jpeg/segment length 0", _with_segments(jpeg, b"\xff\xe5\0\0"), SUCCEEDED)
    yield Hostile("jpeg/segment past the end", _with_segments(jpeg, b"\xff\xe5\xff\xff"), TRUNCATED)


def _jpeg_scans() -> Iterator[Hostile]:
    solid = encode(Image.new("L", (SIDE, SIDE), 90), "JPEG", progressive=True)
    yield Hostile("jpeg-scans/6 of 49 million pixels", solid, PIXELS)
    yield Hostile("jpeg-scans/2000 of 49 million pixels", _last_scan_repeated(solid, 2_000), CORRUPT)
    small = encode(_photo(), "JPEG", progressive=True)
    yield Hostile("jpeg-scans/20 of a small picture", _last_scan_repeated(small, 10), SUCCEEDED)
    many = _last_scan_repeated(small, 10_000)
    yield Hostile("jpeg-scans/10,000 of a small picture", many, CORRUPT)


def _last_scan_repeated(jpeg: bytes, times: int) -> bytes:
    segments = _segments(jpeg)
    last = max(index for index, (marker, _, _) in enumerate(segments) if marker == 0xDA)
    start, end = segments[last][1:]
    return jpeg[:end] + times * jpeg[start:end] + jpeg[end:]


def _jpeg_metadata() -> Iterator[Hostile]:
    jpeg = _jpeg()
    room = MAX_BYTES - len(jpeg)
    exif = b"Exif\0\0"
    yield Hostile("jpeg-metadata/20 MiB of fill bytes", _with_segments(jpeg, b"\xff" * room), SUCCEEDED)
    yield Hostile("jpeg-metadata/20 MiB of junk", jpeg[:20] + bytes(room) + jpeg[20:], SUCCEEDED)
    full = _segment(0xEB, b"x" * 65_533)
    yield Hostile(
        "jpeg-metadata/20 MiB of APP11", _with_segments(jpeg, full * (room // len(full))), SUCCEEDED
    )
    empty = _segment(0xFE, b"")
    yield Hostile("jpeg-metadata/5 million comments", _with_segments(jpeg, empty * (room // 4)), CORRUPT)
    start = _segment(0xE1, exif + bytes(65_000)) * 160
    crumb = _segment(0xE1, exif + b"x")
    crumbs = _with_segments(jpeg, start, crumb * 90_000)
    yield Hostile("jpeg-metadata/EXIF in 90,000 crumbs", crumbs, SUCCEEDED)
    frame = _segment(0xC0, b"\x08\0\x30\0\x40\x03" + b"\1\x11\0" * 21_000)
    yield Hostile("jpeg-metadata/300 frames of 21,000 components", _with_segments(jpeg, frame * 300), CORRUPT)
    table = _segment(0xDB, (b"\0" + b"\1" * 64) * 1_000)
    yield Hostile("jpeg-metadata/300,000 tables", _with_segments(jpeg, table * 300), CORRUPT)
    for name, content in _exif_traps():
        yield Hostile(
            f"jpeg-metadata/EXIF {name}", _with_segments(jpeg, _segment(0xE1, exif + content)), SUCCEEDED
        )
    icc = b"ICC_PROFILE\0"
    broken = {
        "with a random body": b"\1\1" + random.Random(0).randbytes(60_000),
        "empty": b"",
        "part 9 of 2": b"\x09\x02x",
    }
    for name, content in broken.items():
        yield Hostile(
            f"jpeg-metadata/ICC {name}", _with_segments(jpeg, _segment(0xE2, icc + content)), SUCCEEDED
        )
    yield Hostile("jpeg-metadata/JFIF without a body", _with_segments(jpeg, _segment(0xE0, b"JFIF")), CORRUPT)
    yield Hostile(
        "jpeg-metadata/Photoshop cut",
        _with_segments(jpeg, _segment(0xED, b"Photoshop 3.0\x008BIM\x04")),
        SUCCEEDED,
    )


def _exif_traps() -> Iterator[tuple[str, bytes]]:
    def ifd(*entries: tuple[int, int, int, int], following: int) -> bytes:
        packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
        return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + packed + struct.pack("<I", following)

    yield "whose directory follows itself", ifd((0x112, 3, 1, 6), following=8)
    yield "whose parts are itself", ifd((0x8769, 4, 1, 8), (0x8825, 4, 1, 8), (0xA005, 4, 1, 8), following=8)
    yield "with 4 billion values", ifd((0x11A, 5, 0xFFFFFFFF, 8), (0x128, 3, 1, 2), following=0)
    yield "divided by 0", ifd((0x11A, 5, 1, 38), (0x128, 3, 1, 2), following=0) + bytes(8)
    yield "cut", b"II*\0\xff\xff\xff\xff"
    thumbnail = _with_segments(_jpeg(), _segment(0xE1, b"Exif\0\0" + ifd((0x201, 4, 1, 8), following=8)))
    yield (
        "with a thumbnail that has one",
        ifd((0x201, 4, 1, 38), (0x202, 4, 1, len(thumbnail)), following=8) + thumbnail,
    )


def _jpeg_bombs() -> Iterator[Hostile]:
    for mode, side, expected in (
        ("RGB", SIDE, SUCCEEDED),
        ("CMYK", SIDE, PIXELS),
        ("CMYK", SIDE_OF_8_BYTES, SUCCEEDED),
        ("L", SIDE, PIXELS),
        ("L", SIDE_OF_5_BYTES, SUCCEEDED),
    ):
        data = encode(Image.new(mode, (side, side)), "JPEG")
        yield Hostile(f"bomb/jpeg {mode} {side}", data, expected)
    deep = encode(Image.new("RGB", (SIDE, SIDE)), "JPEG", progressive=True, subsampling=0)
    yield Hostile("bomb/jpeg progressive", deep, PIXELS)
    yield Hostile("bomb/jpeg thin", encode(Image.new("RGB", (780, 62_500)), "JPEG"), PIXELS)


# PNG


def _chunk(name: bytes, content: bytes) -> bytes:
    body = name + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def _chunks(png: bytes) -> list[tuple[bytes, int, int]]:
    found, place = [], 8
    while place < len(png):
        end = place + 12 + int.from_bytes(png[place : place + 4])
        found.append((png[place + 4 : place + 8], place, end))
        place = end
    return found


@cache
def _png() -> bytes:
    return encode(_photo().quantize(32), "PNG", transparency=3)


def _with_chunks(png: bytes, *chunks: bytes, after: bool = False) -> bytes:
    """Return ``png`` with ``chunks`` after its header, or after its pixels."""
    place = len(png) - 12 if after else 33
    return png[:place] + b"".join(chunks) + png[place:]


def _png_of(
    width: int, height: int, depth: int = 8, colour: int = 2, pixels: bytes | None = None, interlace: int = 0
) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    body = zlib.compress(bytes(10_000)) if pixels is None else pixels
    palette = _chunk(b"PLTE", bytes(768)) if colour == 3 else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + palette
        + _chunk(b"IDAT", body)
        + _chunk(b"IEND", b"")
    )


def _png_cut() -> Iterator[Hostile]:
    png = _png()
    for name, start, end in _chunks(png):
        expected = SUCCEEDED if name == b"IEND" else TRUNCATED  # the pixels are all there
        for what, place in (("before", start), ("inside", (start + end) // 2)):
            yield Hostile(f"png-cut/{what} {name.decode()}", png[:place], expected)


def _png_headers() -> Iterator[Hostile]:
    png = _png()
    for name, _, end in _chunks(png)[:-1]:
        # The pixels have zlib's own checksum, and a colour profile is not looked at.
        expected = SUCCEEDED if name in (b"IDAT", b"iCCP") else CORRUPT
        yield Hostile(
            f"png/{name.decode()} with a wrong checksum", _patched(png, end - 4, b"\0\0\0\0"), expected
        )
    yield Hostile("png/0 x 48", _png_of(0, 48), CORRUPT)
    yield Hostile("png/64 x 0", _png_of(64, 0), CORRUPT)
    yield Hostile("png/65535 x 65535", _png_of(65_535, 65_535), PIXELS)
    yield Hostile("png/2147483647 x 2147483647", _png_of(2**31 - 1, 2**31 - 1), PIXELS)
    yield Hostile("png/2147483648 x 1", _png_of(2**31, 1), PIXELS)
    yield Hostile("png/depth 7", _png_of(8, 8, depth=7), CORRUPT)
    yield Hostile("png/colour type 5", _png_of(8, 8, colour=5), CORRUPT)
    yield Hostile("png/interlaced by method 9", _png_of(8, 8, interlace=9), SUCCEEDED)
    yield Hostile("png/no pixels", b"".join((png[:33], _chunk(b"IEND", b""))), CORRUPT)
    yield Hostile("png/header twice", _with_chunks(png, png[8:33]), SUCCEEDED)
    yield Hostile(
        "png/palette of one byte",
        _png_of(8, 8, colour=3).replace(_chunk(b"PLTE", bytes(768)), _chunk(b"PLTE", b"x")),
        SUCCEEDED,
    )
    yield Hostile("png/chunk of 4 GB", _with_chunks(png, b"\xff\xff\xff\xffjUnk"), TRUNCATED)
    yield Hostile(
        "png/chunk without a name", _with_chunks(png, struct.pack(">I4sI", 0, b"\0\1\2\3", 0)), CORRUPT
    )
    yield Hostile("png/pixels that are no zlib", _png_of(64, 48, pixels=b"\x78\x9c" + b"\xee" * 500), CORRUPT)
    yield Hostile("png/too few pixels", _png_of(500, 500), CORRUPT)
    yield Hostile("png/filter 77", _png_of(8, 8, pixels=zlib.compress(b"\x4d" * 200)), CORRUPT)


def _png_metadata() -> Iterator[Hostile]:
    png = _png()
    mebibyte = zlib.compress(bytes(2**20), 9)
    huge = _zeros(300 * 2**20)
    for after in (False, True):
        where = "after" if after else "before"
        for name, chunk in (
            ("iCCP of 300 MiB", _chunk(b"iCCP", b"p\0\0" + huge)),
            ("zTXt of 300 MiB", _chunk(b"zTXt", b"k\0\0" + huge)),
            ("4,000 iCCP of 1 MiB", _chunk(b"iCCP", b"p\0\0" + mebibyte) * 4_000),
            ("4,000 nameless zTXt of 1 MiB", _chunk(b"zTXt", b"\0\0" + mebibyte) * 4_000),
            ("eXIf of 9 MiB", _chunk(b"eXIf", bytes(9 * 2**20))),
            ("tEXt of 9 MiB", _chunk(b"tEXt", b"k\0" + bytes(9 * 2**20))),
            ("60 iTXt that quadruple", _wide_texts(60)),
            ("iCCP that is no zlib", _chunk(b"iCCP", b"p\0\0broken")),
            ("iCCP empty", _chunk(b"iCCP", b"")),
        ):
            yield Hostile(
                f"png-metadata/{name} {where} the pixels", _with_chunks(png, chunk, after=after), SUCCEEDED
            )
    tiny = _chunk(b"jUnk", b"")
    yield Hostile(
        "png-metadata/1.7 million chunks before the pixels", _with_chunks(png, tiny * 1_700_000), CORRUPT
    )
    yield Hostile(
        "png-metadata/1.7 million chunks after the pixels",
        _with_chunks(png, tiny * 1_700_000, after=True),
        SUCCEEDED,
    )
    crumbs = _with_chunks(png, *[_chunk(b"IDAT", b"")] * 1_700_000)
    yield Hostile("png-metadata/pixels in 1.7 million chunks", crumbs, CORRUPT)


def _wide_texts(count: int) -> bytes:
    """Return international texts of 1 MiB each, of which one letter makes Python use 4 bytes a letter."""
    text = zlib.compress("\N{PILE OF POO}".encode() + b"x" * (2**20 - 4), 9)
    return b"".join(_chunk(b"iTXt", b"k%d\0\1\0\0\0" % index + text) for index in range(count))


@cache
def _zeros(count: int, filter_row_bytes: int = 0) -> bytes:
    """Return ``count`` compressed zeros; with a length, in rows of the Paeth filter, the slowest."""
    compress = zlib.compressobj(1)
    block = b"\4" + bytes(filter_row_bytes - 1) if filter_row_bytes else bytes(1_000_000)
    parts = [compress.compress(block) for _ in range(-(-count // len(block)))]
    return b"".join([*parts, compress.flush()])


def _png_bombs() -> Iterator[Hostile]:
    yield Hostile("bomb/png declared", png_bomb(50_000, 50_000), PIXELS)
    yield Hostile(
        "bomb/png with 300 MB more than declared", _png_of(8, 8, pixels=_zeros(300_000_000)), SUCCEEDED
    )
    for name, side, depth, colour, samples, expected in (
        ("RGB", SIDE, 8, 2, 3, SUCCEEDED),
        ("RGBA", SIDE, 8, 6, 4, PIXELS),
        ("RGBA", SIDE_OF_8_BYTES, 8, 6, 4, SUCCEEDED),
        ("palette", SIDE, 8, 3, 1, PIXELS),
        ("palette", SIDE_OF_5_BYTES, 8, 3, 1, SUCCEEDED),
        ("16-bit RGB", SIDE, 16, 2, 6, PIXELS),
        ("16-bit RGBA", SIDE_OF_8_BYTES, 16, 6, 8, SUCCEEDED),
    ):
        row = 1 + side * samples
        pixels = _zeros(row * side, row)
        yield Hostile(f"bomb/png {name} {side}", _png_of(side, side, depth, colour, pixels), expected)
    side = SIDE_OF_8_BYTES
    pixels = _zeros(side * side * 4 + 20_000)
    yield Hostile("bomb/png interlaced", _png_of(side, side, 8, 6, pixels, interlace=1), SUCCEEDED)


# WebP


def _riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WEBP" + b"".join(
        name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2) for name, content in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _webp_canvas(width: int, height: int, flags: int = 0) -> tuple[bytes, bytes]:
    return b"VP8X", struct.pack("<I", flags) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(
        3, "little"
    )


def _webp() -> Iterator[Hostile]:
    lossy, lossless = encode(_photo(), "WEBP"), encode(_photo(), "WEBP", lossless=True)
    frames = photo_crops(3, (64, 48))
    animated = encode(frames[0], "WEBP", save_all=True, append_images=frames[1:])
    for name, webp in (("lossy", lossy), ("lossless", lossless), ("animated", animated)):
        for length in (12, 20, 40, len(webp) // 2, len(webp) - 2):
            yield Hostile(f"webp-cut/{name} at {length}", webp[:length], TRUNCATED)
    yield Hostile("webp/animated", animated, ANIMATED)
    vp8 = (lossy[12:16], lossy[20:])
    for name, chunk in (("ICC profile", b"ICCP"), ("EXIF", b"EXIF"), ("XMP", b"XMP ")):
        bits = {b"ICCP": 0x20, b"EXIF": 0x08, b"XMP ": 0x04}[chunk]
        parts = (_webp_canvas(64, 48, bits), vp8, (chunk, random.Random(0).randbytes(5_000)))
        if chunk == b"ICCP":
            parts = (parts[0], parts[2], parts[1])
        yield Hostile(f"webp/broken {name}", _riff(*parts), SUCCEEDED)
    yield Hostile("webp/canvas of 16777216 x 16777216", _riff(_webp_canvas(2**24, 2**24), vp8), PIXELS)
    yield Hostile("webp/canvas of 16000 x 16000", _riff(_webp_canvas(16_000, 16_000), vp8), PIXELS)
    yield Hostile("webp/canvas of another size", _riff(_webp_canvas(65, 48), vp8), CORRUPT)
    yield Hostile("webp/no picture", _riff(_webp_canvas(64, 48)), CORRUPT)
    yield Hostile(
        "webp/chunk of 4 GB", _riff(_webp_canvas(64, 48)) + b"junk\xff\xff\xff\xff" + bytes(50), CORRUPT
    )
    yield Hostile("webp/size 0 claimed", _patched(lossy, 4, bytes(4)), CORRUPT)
    yield Hostile("webp/pixels of noise", _patched(lossy, 40, random.Random(1).randbytes(300)), CORRUPT)
    yield Hostile(
        "webp/a million chunks", _riff(_webp_canvas(64, 48), vp8, *[(b"junk", b"")] * 1_000_000), SUCCEEDED
    )
    frame = (b"ANMF", bytes(6) + b"\x3f\0\0\x2f\0\0" + bytes(4) + lossy[12:])
    film = _riff(_webp_canvas(64, 48, 2), (b"ANIM", bytes(6)), *[frame] * 5_000)
    yield Hostile("webp/5,000 frames", film, ANIMATED)


def _webp_bombs() -> Iterator[Hostile]:
    for name, options in (
        ("lossy", {"method": 0}),
        ("lossless", {"lossless": True, "quality": 0, "method": 0}),
    ):
        yield Hostile(f"bomb/webp {name}", encode(Image.new("RGB", (SIDE, SIDE)), "WEBP", **options), PIXELS)
        yield Hostile(
            f"bomb/webp {name} allowed", encode(Image.new("RGB", (4032, 3024)), "WEBP", **options), SUCCEEDED
        )


# GIF


def _gif_of(
    width: int, height: int, pixels: bytes, *, canvas: tuple[int, int] | None = None, extensions: bytes = b""
) -> bytes:
    screen = struct.pack("<HHBBB", *(canvas or (width, height)), 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return (
        b"GIF89a" + screen + extensions + b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + pixels + b";"
    )


def _sub_blocks(data: bytes, size: int = 255) -> bytes:
    parts = (data[place : place + size] for place in range(0, len(data), size))
    return b"".join(bytes([len(part)]) + part for part in parts) + b"\0"


def _gif() -> Iterator[Hostile]:
    gif = encode(_photo().quantize(32), "GIF", transparency=5)
    for length in (6, 12, 13, 60, 110, 120, len(gif) // 2, len(gif) - 8):
        yield Hostile(f"gif-cut/at {length}", gif[:length], TRUNCATED)
    two_by_two = b"\2" + _sub_blocks(b"\x84\x51")
    yield Hostile("gif/single", gif, SUCCEEDED)
    yield Hostile("gif/0 x 0", _gif_of(0, 0, two_by_two), CORRUPT)
    yield Hostile("gif/0 x 48", _gif_of(0, 48, two_by_two), CORRUPT)
    yield Hostile("gif/65535 x 65535", _gif_of(65_535, 65_535, two_by_two), PIXELS)
    yield Hostile("gif/frame beyond its canvas", _gif_of(65_535, 65_535, two_by_two, canvas=(8, 8)), PIXELS)
    noise = random.Random(2).randbytes(3_000)
    yield Hostile("gif/pixels of noise", _gif_of(64, 48, b"\7" + _sub_blocks(noise)), CORRUPT)
    yield Hostile("gif/codes of 13 bits", _gif_of(64, 48, b"\x0d" + _sub_blocks(noise)), CORRUPT)
    yield Hostile("gif/no pixels", _gif_of(64, 48, b"\7\0"), TRUNCATED)
    yield Hostile("gif/no picture", b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0, 0, 0) + b";", TRUNCATED)
    still = gif[gif.index(b",") : -1]
    yield Hostile("gif/5,000 frames", gif[:-1] + still * 5_000 + b";", ANIMATED)
    yield Hostile("gif/second frame cut", gif[:-1] + b",\0", ANIMATED)


def _gif_bombs() -> Iterator[Hostile]:
    gif = encode(_photo().quantize(32), "GIF")
    place = gif.index(b",", 13 + 96)
    room = MAX_BYTES - len(gif) - 10
    for name, extension in (
        ("comment in 10 million blocks", b"!\xfe" + b"\1x" * (room // 2) + b"\0"),
        ("application block in 10 million", b"!\xff" + b"\1x" * (room // 2) + b"\0"),
    ):
        yield Hostile(f"gif-metadata/{name}", gif[:place] + extension + gif[place:], SUCCEEDED)
    empty = gif[:place] + b"!\xfe\0" * (room // 3) + gif[place:]
    yield Hostile("gif-metadata/7 million extensions", empty, CORRUPT)
    yield Hostile("gif-metadata/20 MiB of junk", gif[:place] + bytes(room) + gif[place:], SUCCEEDED)
    yield Hostile(
        "gif-metadata/20 MiB of blocks after the pixels", gif[:-2] + b"\1x" * (room // 2) + b"\0;", SUCCEEDED
    )
    for side, expected in ((SIDE, PIXELS), (SIDE_OF_5_BYTES, SUCCEEDED)):
        yield Hostile(f"bomb/gif {side}", encode(Image.new("P", (side, side)), "GIF"), expected)


# Files that are not what they say


def _disguises() -> Iterator[Hostile]:
    jpeg, png, gif = _jpeg(), _png(), encode(_photo().quantize(32), "GIF")
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w") as zip_file:
        zip_file.writestr(zipfile.ZipInfo("x.txt"), "x" * 1_000)
    html = b"<!DOCTYPE html><html><script>alert(1)</script></html>"
    # A picture is what its first bytes are; what follows its end is nobody's.
    yield Hostile("polyglot/jpeg and zip", jpeg + archive.getvalue(), SUCCEEDED)
    yield Hostile("polyglot/png and html", png + html, SUCCEEDED)
    yield Hostile("polyglot/gif and javascript", gif + b"/*=1;*/alert(1)", SUCCEEDED)
    yield Hostile("polyglot/gif that is javascript", b"GIF89a/*" + html + b"*/=1;", TRUNCATED)
    yield Hostile("polyglot/jpeg and jpeg", jpeg + jpeg, SUCCEEDED)
    yield Hostile(
        "polyglot/mpo of two pictures",
        encode(_photo(), "MPO", save_all=True, append_images=[_photo()]),
        SUCCEEDED,
    )
    others = {
        "html": html,
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "pdf": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n%%EOF\n",
        "elf": b"\x7fELF\2\1\1" + bytes(57),
        "zip": archive.getvalue(),
        "text": b"holiday\n",
        "one byte": b"\xff",
        "zeros": bytes(5_000),
        "riff that is a sound": b"RIFF\x24\0\0\0WAVEfmt " + bytes(24),
        "png with its line ends converted": b"\x89PNG\n\x1a\n" + png[8:],
        "jpeg after a space": b" " + jpeg,
    }
    for name, data in others.items():
        yield Hostile(f"wrong-extension/{name}", data, TYPE)
    yield Hostile("wrong-extension/nothing", b"", ("image_empty",))
    # The magic of an accepted type, and another format behind it.
    bodies = {"tiff": encode(_photo(), "TIFF"), "bmp": encode(_photo(), "BMP"), "html": html}
    for name, body in bodies.items():
        # Read as lengths and sizes, a text or a table of another format may be anything.
        yield Hostile(f"false-magic/png and {name}", b"\x89PNG\r\n\x1a\n" + body, TRUNCATED)
        yield Hostile(f"false-magic/jpeg and {name}", b"\xff\xd8\xff" + body, TRUNCATED + CORRUPT)
        yield Hostile(f"false-magic/gif and {name}", b"GIF89a" + body, TRUNCATED + PIXELS)
        yield Hostile(f"false-magic/webp and {name}", b"RIFF\x40\0\0\0WEBP" + body, TRUNCATED + CORRUPT)


def _other_formats() -> Iterator[Hostile]:
    for name in (
        "BMP",
        "TIFF",
        "ICO",
        "JPEG2000",
        "AVIF",
        "EPS",
        "PPM",
        "TGA",
        "ICNS",
        "DDS",
        "PCX",
        "SGI",
        "QOI",
    ):
        yield Hostile(f"other-format/{name.lower()}", encode(_photo(), name), TYPE)
    yield Hostile("other-format/gif in an icon", encode(_photo(), "ICO", sizes=[(16, 16)]), TYPE)
    brands = {"heic": b"ftypheic", "heif": b"ftypmif1", "cr3": b"ftypcrx "}
    for name, brand in brands.items():
        yield Hostile(f"other-format/{name}", b"\0\0\0\x18" + brand + bytes(100), TYPE)
    heads = {
        "psd": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 48, 64, 8, 3) + bytes(64),
        "fli": struct.pack("<IHHHHH", 128, 0xAF11, 1, 64, 48, 8) + bytes(114),
        "wmf": b"\xd7\xcd\xc6\x9a" + bytes(60),
        "emf": b"\1\0\0\0" + bytes(36) + b" EMF" + bytes(60),
        "jpeg xl": b"\xff\x0a" + bytes(60),
        "jpeg xl in a box": b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(60),
        "xpm": b'/* XPM */\nstatic char *x[] = {"1 1 1 1","a c #000000","a"};',
        "xbm": b"#define x_width 8\n#define x_height 1\nstatic char x_bits[] = {0x00};",
        "fits": b"SIMPLE  =                    T" + bytes(60),
        "mng": b"\x8aMNG\r\n\x1a\n" + bytes(60),
        "postscript that runs": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (w) file\n",
    }
    for name, data in heads.items():
        yield Hostile(f"other-format/{name}", data, TYPE)


def _modes() -> Iterator[Hostile]:
    photo = _photo()
    alpha = Image.linear_gradient("L").resize(photo.size)

    def clear(mode: str) -> Image.Image:
        image = photo.convert(mode)
        image.putalpha(alpha)
        return image

    yield Hostile("mode/jpeg CMYK", encode(photo, "JPEG", "CMYK"), SUCCEEDED)
    cmyk = encode(photo, "JPEG", "CMYK")
    yield Hostile("mode/jpeg CMYK without Adobe's mark", _without(cmyk, 0xEE), SUCCEEDED)
    ycck = cmyk.replace(b"Adobe\0\x64\0\0\0\0\0", b"Adobe\0\x64\0\0\0\0\2")
    yield Hostile("mode/jpeg YCCK", ycck, SUCCEEDED)
    yield Hostile(
        "mode/jpeg RGB by Adobe's mark",
        _with_segments(_jpeg(), _segment(0xEE, b"Adobe\0\x64\0\0\0\0\0")),
        SUCCEEDED,
    )
    yield Hostile(
        "mode/jpeg with an unknown Adobe transform",
        _with_segments(_jpeg(), _segment(0xEE, b"Adobe\0\x64\0\0\0\0\x09")),
        SUCCEEDED,
    )
    yield Hostile("mode/jpeg grey", encode(photo, "JPEG", "L"), SUCCEEDED)
    for mode in ("1", "L", "P", "RGB"):
        yield Hostile(f"mode/png {mode}", encode(photo, "PNG", mode), SUCCEEDED)
    yield Hostile("mode/png palette with one clear colour", _png(), SUCCEEDED)
    yield Hostile("mode/png LA", encode(clear("L"), "PNG"), SUCCEEDED)
    yield Hostile("mode/png RGBA", encode(clear("RGB"), "PNG"), SUCCEEDED)
    yield Hostile("mode/png 16-bit grey", encode(Image.new("I;16", (64, 48), 1_234), "PNG"), MODE)
    yield Hostile("mode/tiff of 32 bits", encode(Image.new("I", (64, 48), 1_234), "TIFF"), TYPE)
    for name, colour, samples in (("RGB", 2, 3), ("RGBA", 6, 4), ("grey with alpha", 4, 2)):
        rows = b"".join(b"\0" + random.Random(row).randbytes(64 * samples * 2) for row in range(48))
        yield Hostile(f"mode/png 16-bit {name}", _png_of(64, 48, 16, colour, zlib.compress(rows)), SUCCEEDED)
    yield Hostile("mode/webp RGBA", encode(clear("RGB"), "WEBP"), SUCCEEDED)
    yield Hostile("mode/gif grey", encode(photo, "GIF", "L"), SUCCEEDED)
    frames = photo_crops(3, photo.size)
    yield Hostile(
        "mode/png animated", encode(frames[0], "PNG", save_all=True, append_images=frames[1:]), ANIMATED
    )
    yield Hostile(
        "mode/gif animated", encode(frames[0], "GIF", save_all=True, append_images=frames[1:]), ANIMATED
    )
    yield Hostile("mode/tiff of floats", encode(photo, "TIFF", "F"), TYPE)
