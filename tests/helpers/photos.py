"""Real photographs for tests: crops and re-encodings of scikit-learn's two sample pictures.

Everything is deterministic: the same arguments give the same bytes with the same Pillow.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

FAST = Image.Quantize.FASTOCTREE


@cache
def _photographs() -> tuple[Image.Image, ...]:
    """Return china.jpg (a temple) and flower.jpg (a dahlia), RGB, 640 × 427."""
    spec = find_spec("sklearn")  # finds the folder without importing scikit-learn, which takes seconds
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "datasets" / "images"
    return tuple(Image.open(folder / name).convert("RGB") for name in ("china.jpg", "flower.jpg"))


def photo_crops(n: int, size: tuple[int, int] = (500, 375)) -> list[Image.Image]:
    """Return ``n`` distinct RGB pictures of ``size`` (width, height): random windows, half mirrored."""
    generator = random.Random(0)
    crops = []
    for index in range(n):
        photograph = _photographs()[index % 2]
        scale = generator.uniform(0.4, 1.0) * min(photograph.width / size[0], photograph.height / size[1])
        width, height = max(1.0, size[0] * scale), max(1.0, size[1] * scale)
        left = generator.uniform(0, photograph.width - width)
        top = generator.uniform(0, photograph.height - height)
        box = (left, top, left + width, top + height)
        crop = photograph.resize(size, Image.Resampling.BICUBIC, box=box)
        crops.append(crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if generator.random() < 0.5 else crop)
    return crops


def encode(image: Image.Image, file_format: str = "JPEG", mode: str | None = None, **options: Any) -> bytes:
    """Return ``image`` as a file, converted to ``mode`` first; ``options`` are those of ``Image.save``."""
    file = BytesIO()
    (image.convert(mode) if mode else image).save(file, file_format, **options)
    return file.getvalue()


def distinct(images: Sequence[bytes], count: int) -> list[bytes]:
    """Return ``count`` files of these pictures in turn, none equal to another: workers compute each."""
    return [images[number % len(images)] + number.to_bytes(8) for number in range(count)]


def parity_images() -> list[tuple[str, bytes]]:
    """Return 30 named files of every accepted type, mode and awkward shape."""
    crops = iter(photo_crops(30))
    alpha = Image.linear_gradient("L").resize((500, 375))

    def with_alpha(mode: str) -> Image.Image:
        image = next(crops).convert(mode)
        image.putalpha(alpha)
        return image

    def sized(width: int, height: int) -> Image.Image:
        return next(crops).resize((width, height))

    palette_some_clear = next(crops).quantize(64, FAST)
    return [
        ("jpeg-q95", encode(next(crops), quality=95)),
        ("jpeg-q75", encode(next(crops), quality=75)),
        ("jpeg-q20", encode(next(crops), quality=20)),
        ("jpeg-444", encode(next(crops), subsampling=0)),
        ("jpeg-progressive", encode(next(crops), progressive=True)),
        ("jpeg-grey", encode(next(crops), mode="L")),
        ("jpeg-cmyk", encode(next(crops), mode="CMYK")),
        ("jpeg-exif-rotated", encode(next(crops), exif=_exif_orientation(6))),
        ("jpeg-odd-size", encode(sized(333, 257))),
        ("jpeg-tiny", encode(sized(50, 40))),
        ("jpeg-tall", encode(sized(120, 600))),
        ("jpeg-wide", encode(sized(900, 150))),
        ("jpeg-already-256", encode(sized(256, 256))),
        ("jpeg-crop-rounds-half", encode(sized(257, 256))),
        ("png-rgb", encode(next(crops), "PNG")),
        ("png-grey", encode(next(crops), "PNG", mode="L")),
        ("png-grey-alpha", encode(with_alpha("L"), "PNG")),
        ("png-rgb-alpha", encode(with_alpha("RGB"), "PNG")),
        ("png-palette", encode(next(crops).quantize(256, FAST), "PNG")),
        ("png-palette-one-clear", encode(next(crops).quantize(32, FAST), "PNG", transparency=3)),
        ("png-palette-alphas", encode(palette_some_clear, "PNG", transparency=bytes(range(0, 256, 4)))),
        ("png-two-tone", encode(next(crops), "PNG", mode="1")),
        ("png-16-bit-rgb", _png_16_bit_rgb(next(crops))),
        ("png-tiny-tall", encode(sized(17, 63), "PNG")),
        ("png-one-pixel", encode(sized(1, 1), "PNG")),
        ("webp-lossy", encode(next(crops), "WEBP", quality=80)),
        ("webp-lossless", encode(next(crops), "WEBP", lossless=True, quality=0)),
        ("webp-alpha", encode(with_alpha("RGB"), "WEBP")),
        ("gif", encode(next(crops).quantize(128, FAST), "GIF")),
        ("gif-transparent", encode(next(crops).quantize(128, FAST), "GIF", transparency=5)),
    ]


def hostile_images() -> dict[str, bytes]:
    """Return files that must be refused, by the ``code`` of the error that refuses them."""
    still, *frames = photo_crops(4, (200, 150))
    photograph = encode(still)
    flipped = bytearray(encode(still, "PNG"))
    flipped[len(flipped) // 2] ^= 0xFF
    return {
        "image_empty": b"",
        "image_type_unsupported": b"This is a text file that somebody named holiday.jpg.\n",
        "image_truncated": photograph[: len(photograph) // 2],
        "image_corrupt": bytes(flipped),
        "image_too_many_pixels": png_bomb(50_000, 50_000),
        "image_mode_unsupported": encode(Image.new("I;16", (64, 64), 1234), "PNG"),
        "image_animated": encode(
            still.quantize(64, FAST),
            "GIF",
            save_all=True,
            append_images=[f.quantize(64, FAST) for f in frames],
        ),
    }


def png_bomb(width: int, height: int) -> bytes:
    """Return a small, valid-looking RGB PNG whose header promises ``width`` × ``height`` pixels of zeros."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    zeros = zlib.compress(bytes(1_000_000), 9)
    return _png(("IHDR", header), ("IDAT", zeros), ("IEND", b""))


def _png(*chunks: tuple[str, bytes]) -> bytes:
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, content in chunks:
        body = name.encode() + content
        parts.append(struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body)))
    return b"".join(parts)


def _png_16_bit_rgb(image: Image.Image) -> bytes:
    """Return ``image`` at 16 bits a channel, which Pillow reads but does not write."""
    row_bytes = 3 * image.width
    samples = image.tobytes()
    wide = bytearray(2 * len(samples))
    wide[::2] = samples  # big-endian; the low byte is noise that reading at 8 bits drops
    wide[1::2] = bytes(reversed(samples))
    rows = b"".join(b"\0" + wide[2 * row_bytes * y : 2 * row_bytes * (y + 1)] for y in range(image.height))
    header = struct.pack(">IIBBBBB", image.width, image.height, 16, 2, 0, 0, 0)
    return _png(("IHDR", header), ("IDAT", zlib.compress(rows, 1)), ("IEND", b""))


def _exif_orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif
