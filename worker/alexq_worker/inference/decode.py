"""From the bytes of one image to the pixels that the network sees, as the notebook does it.

The reference is ``CenterCrop(224)(Resize(256)(Image.open(f).convert("RGB")))`` with torchvision's
transforms on Pillow images; the pixels here are bit for bit the same, with Pillow alone. As there,
EXIF orientation is NOT applied: a photograph that a phone stored lying down is classified lying
down. Colour profiles are ignored, alpha is dropped, and 16-bit RGB PNG arrives as Pillow's 8 bits.

The bytes are hostile until proven otherwise. Everything Pillow may raise becomes one of the typed
image errors, the readers get only what pixels are made of (:mod:`alexq_worker.inference.containers`), and
the size in the header is checked before a pixel is allocated. All threads together hold no more than
one picture of the largest size takes, whatever its type (:mod:`alexq_worker.inference.memory`).
"""

from __future__ import annotations

import re
import struct
from io import BytesIO
from typing import TYPE_CHECKING, overload

from PIL import Image
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from alexq_schema.errors import (
    AlexqError,
    EngineError,
    ImageAnimatedError,
    ImageCorruptError,
    ImageEmptyError,
    ImageModeError,
    ImageTooManyPixelsError,
    ImageTypeError,
    ModelInvalidError,
)
from alexq_worker.inference.containers import ESSENCE, MAX_SCANS, Essence, truncated
from alexq_worker.inference.crops import Picture, TenCrops, centre, ten
from alexq_worker.inference.memory import Memory, give_back_large_blocks

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

    from alexq_schema.model_info import Preprocessing

# Pillow's readers are called directly, not through Image.open: it would try formats in turn, warn
# about sizes according to one limit that is global to the process, and open a phone's multi-picture
# JPEG (MPO) as a second format. The plain JPEG reader gives the first picture, the same pixels.
_SIGNATURES: tuple[tuple[str, re.Pattern[bytes], type[ImageFile]], ...] = (
    ("JPEG", re.compile(rb"\xff\xd8\xff"), JpegImageFile),
    ("PNG", re.compile(rb"\x89PNG\r\n\x1a\n"), PngImageFile),
    ("WebP", re.compile(rb"RIFF....WEBP", re.DOTALL), WebPImageFile),
    ("GIF", re.compile(rb"GIF8[79]a"), GifImageFile),
)
_MODES_WITH_8_BIT_RGB = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})
_MODES_OF_1_BYTE = frozenset({"1", "L", "P"})

_MAX_PASSES = 5
"""Scans of a picture of the largest size, a fifth of a second each; ten of a camera's 24 million pixels."""

_SPARE_BYTES = 16_000_000
"""What a picture may take beside its own pixels: for the resize."""


def memory_for(max_pixels: int) -> Memory:
    """Return what all pictures that are being decoded may take together."""
    return Memory(4 * max_pixels + _SPARE_BYTES)


class Decoder:
    """Decodes images for one preprocessing. Any number of threads may share it, and its memory."""

    def __init__(self, preprocessing: Preprocessing, max_pixels: int, memory: Memory | None = None) -> None:
        """Refuse images of more than ``max_pixels`` (width × height, before or after the resize).

        All decodes together hold at most the 4 bytes a pixel that one picture of ``max_pixels`` takes;
        one that alone would take more is refused as well: a WebP, a progressive JPEG, or one that is not
        RGB needs more for each pixel.

        Args:
            memory: what decoders for several preprocessings share, as :func:`memory_for` makes it.

        Raises:
            ModelInvalidError: the crop is larger than the resized picture.
        """
        if not 1 <= preprocessing.crop <= preprocessing.resize:
            raise ModelInvalidError(
                f"preprocessing crops {preprocessing.crop} pixels from a picture resized to "
                f"{preprocessing.resize}: correct model.json"
            )
        self._shorter_side = preprocessing.resize
        self._crop = preprocessing.crop
        self._max_pixels = max_pixels
        self._memory = memory or memory_for(max_pixels)
        give_back_large_blocks()

    @overload
    def decode(self, data: bytes) -> Picture: ...

    @overload
    def decode(self, data: bytes, crops: int = 1) -> Picture | TenCrops: ...

    def decode(self, data: bytes, crops: int = 1) -> Picture | TenCrops:
        """Return the resized and cropped picture in ``data``, a JPEG, PNG, WebP or GIF file.

        Args:
            crops: 1, the centre, or 10, as torchvision's ``TenCrop`` has them.

        Raises:
            ImageEmptyError: 0 bytes.
            ImageTypeError: the first bytes are of no accepted type.
            ImageTruncatedError: the file ends before the picture does.
            ImageCorruptError: the bytes are not a valid picture of the type they claim.
            ImageTooManyPixelsError: too many pixels, or too many bytes for each; found before decoding.
            ImageModeError: the pixels have no 8-bit RGB form (16-bit grey, 32-bit, float).
            ImageAnimatedError: a GIF, PNG or WebP of more than one frame.
            EngineError: this process is out of memory, or the share for pictures is held by others; the
                image may be fine.
        """
        kind, reader = _identify(data)
        file = BytesIO()
        try:
            essence = ESSENCE[kind](data)
            file = BytesIO(essence.data)
            with reader(file) as image:
                self._check_header(kind, image, essence)
                with self._memory.taken(self._needed_bytes(kind, image, essence)):
                    resized = self._resize(_to_rgb(image))
                    return centre(resized, self._crop) if crops == 1 else ten(resized, self._crop)
        except AlexqError:
            raise
        except MemoryError as error:
            raise EngineError(
                f"out of memory while decoding a {kind} of {len(data)} bytes: give the worker more memory, "
                "or lower ALEXQ_DECODE_THREADS or ALEXQ_MAX_IMAGE_PIXELS"
            ) from error
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise ImageTooManyPixelsError(f"the {kind} is too large: {_readable(error)}") from error
        except Exception as error:  # a hostile file can make a decoder raise anything
            if _ends_early(kind, data, file, error):
                raise truncated(kind, data, _readable(error)) from error
            raise ImageCorruptError(
                f"the {kind} is damaged ({_readable(error)}): save it again from its source"
            ) from error

    def _check_header(self, kind: str, image: ImageFile, essence: Essence) -> None:
        """Refuse what the header alone rules out; nothing is decoded yet."""
        width, height = image.size
        if width * height > self._max_pixels:
            raise ImageTooManyPixelsError(
                f"the {kind} has {width} × {height} pixels, more than the limit of {self._max_pixels} "
                "(ALEXQ_MAX_IMAGE_PIXELS): scale it down first"
            )
        resized_width, resized_height = self._resized(width, height)
        if resized_width * resized_height > self._max_pixels:
            raise ImageTooManyPixelsError(
                f"the {kind} of {width} × {height} pixels is so long and thin that resizing its shorter side "
                f"to {self._shorter_side} makes {resized_width} × {resized_height} pixels, more than the "
                f"limit of {self._max_pixels} (ALEXQ_MAX_IMAGE_PIXELS): crop it first"
            )
        if image.mode not in _MODES_WITH_8_BIT_RGB:
            raise ImageModeError(
                f"the {kind} has pixels of mode {image.mode}, which have no faithful 8-bit RGB form: "
                "convert it to 8 bits a channel first"
            )
        # A phone's JPEG may carry more pictures (MPO); its reader here sees only the first. A GIF's reader
        # would look for a second frame byte by byte.
        if essence.is_animated or (kind != "GIF" and getattr(image, "is_animated", False)):
            raise ImageAnimatedError(f"the {kind} is animated: send one frame as an image of its own")
        if essence.scans > MAX_SCANS:
            raise ImageCorruptError(
                f"the {kind} goes over its pixels in more than {MAX_SCANS} scans: "
                "save it again from its source"
            )
        needed_bytes = self._needed_bytes(kind, image, essence)
        if needed_bytes > self._memory.size_bytes:
            raise ImageTooManyPixelsError(
                f"the {kind} of {width} × {height} pixels takes {needed_bytes:,} bytes to decode, more than "
                f"{self._memory.size_bytes:,} (4 for each of ALEXQ_MAX_IMAGE_PIXELS, and {_SPARE_BYTES:,}): "
                "scale it down first"
            )

        if essence.scans * width * height > _MAX_PASSES * self._max_pixels:
            raise ImageTooManyPixelsError(
                f"the {kind} goes over its {width} × {height} pixels in {essence.scans} scans, more than "
                f"{_MAX_PASSES} times ALEXQ_MAX_IMAGE_PIXELS in all: save it again, not progressive"
            )

    def _needed_bytes(self, kind: str, image: ImageFile, essence: Essence) -> int:
        """Return how much memory the picture takes at the most, from reading to resizing."""
        width, height = image.size
        resized_width, resized_height = self._resized(width, height)
        between = max(resized_width * height, width * resized_height)  # Pillow chooses which side is first
        resizing_bytes = 4 * (between + resized_width * resized_height)
        return int(width * height * _bytes_per_pixel(kind, image, essence)) + resizing_bytes

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Return width and height after torchvision's ``Resize``: the shorter side is exact."""
        if width <= height:
            return self._shorter_side, int(self._shorter_side * height / width)
        return int(self._shorter_side * width / height), self._shorter_side

    def _resize(self, image: Image.Image) -> Image.Image:
        # In one call: Pillow goes over the rows first, or over the columns, as it sees fit, and rounds in
        # between, so strips would come out with other pixels in tall pictures. resize(box=…) would compute
        # only the pixels that stay and save 0.2 ms of 2.4, but Pillow keeps the box in single precision:
        # one random size in ten came out with other pixels.
        return image.resize(self._resized(*image.size), Image.Resampling.BILINEAR)


def _identify(data: bytes) -> tuple[str, type[ImageFile]]:
    """Return the type that the first bytes claim, and its reader."""
    if not data:
        raise ImageEmptyError("the image has 0 bytes: send the file's content")
    for kind, signature, reader in _SIGNATURES:
        if signature.match(data):
            return kind, reader
    raise ImageTypeError(
        f"the first bytes ({data[:8].hex(' ')}) are not those of a JPEG, PNG, WebP or GIF: "
        "convert the image to one of these"
    )


def _to_rgb(image: ImageFile) -> Image.Image:
    image.load()
    if image.mode == "RGB":
        return image  # convert() would copy
    # Transparency has no part in convert("RGB") but a warning when it is a palette's.
    image.info.pop("transparency", None)
    return image.convert("RGB")


def _bytes_per_pixel(kind: str, image: ImageFile, essence: Essence) -> float:
    """Return the most that is held of each pixel at one time, or that must be gone through to read it."""
    if kind == "WebP":
        return 16.0  # libwebp's two canvases, the frame it gives, and Pillow's picture
    stored = 1.0 if image.mode in _MODES_OF_1_BYTE else 4.0
    as_rgb = 0.0 if image.mode == "RGB" else 4.0
    if isinstance(image, JpegImageFile) and (
        "progressive" in image.info or essence.first_scan_components < image.layers
    ):
        # libjpeg keeps every coefficient, 2 bytes, until the last scan has been.
        samples = [down * across for _, down, across, _ in image.layer]
        coefficients = 2.0 * min(image.layers, sum(samples) / max(1, *samples, 1))
        return stored + max(as_rgb, coefficients)
    # 16 bits a channel are read at 8, but twice the bytes must be unpacked: time, not memory.
    rawmode = image.tile[0].args if image.tile else ""
    is_deep = isinstance(rawmode, str) and rawmode.endswith(";16B")
    return stored + max(as_rgb, 4.0 * is_deep)


def _ends_early(kind: str, data: bytes, file: BytesIO, error: Exception) -> bool:
    """Return whether ``error`` came from running out of bytes."""
    if kind == "WebP":  # libwebp does not say why; the container's length field does
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    if kind == "PNG":
        return _png_ends_early(data)
    if "truncated" in str(error).lower():
        return True
    short_read = (EOFError, struct.error, IndexError)
    return isinstance(error, EOFError) or (
        file.tell() >= len(file.getbuffer()) and isinstance(error.__cause__ or error, short_read)
    )


def _png_ends_early(data: bytes) -> bool:
    """Return whether the chunks, each of 12 bytes and its content, run past the end before IEND."""
    place = 8
    while data[place + 4 : place + 8] != b"IEND":
        if place >= len(data):
            return True
        place += 12 + int.from_bytes(data[place : place + 4])
    return False


def _readable(error: Exception, limit: int = 160) -> str:
    """Return the error's text in one printable line: it may quote bytes of the file."""
    text = "".join(c if c.isprintable() else " " for c in str(error)) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
