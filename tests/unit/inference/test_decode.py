"""Every bad image is refused by name, in little memory, and harms no other."""

from __future__ import annotations

import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alexq_schema.errors import (
    EngineError,
    ImageAnimatedError,
    ImageCorruptError,
    ImageError,
    ImageModeError,
    ImageTooManyPixelsError,
    ImageTruncatedError,
    ImageTypeError,
    ModelInvalidError,
)
from alexq_schema.model_info import Preprocessing
from alexq_worker.inference import decode as decode_module
from alexq_worker.inference.decode import Decoder
from alexq_worker.inference.memory import Memory
from tests.helpers.photos import encode, hostile_images, parity_images, photo_crops, png_bomb

HOSTILE = hostile_images()


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 700),
    height=st.integers(1, 700),
    mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_size_and_mode_decodes_to_torchvisions_pixels(
    decoder, reference_pixels, width, height, mode, seed
):
    if max(width, height) > 40 * min(width, height):
        height = width
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), "PNG", mode=mode, compress_level=0)
    out = np.zeros((224, 224, 3), np.uint8)
    decoder.decode(data).write_to(out)
    assert np.array_equal(out, reference_pixels(data))


@pytest.mark.parametrize("code", HOSTILE)
def test_a_hostile_image_is_refused_by_name(code, decoder):
    with pytest.raises(ImageError) as caught:
        decoder.decode(HOSTILE[code])
    assert caught.value.code == code
    assert not caught.value.is_retryable
    assert "\n" not in caught.value.detail
    assert len(caught.value.detail) < 400


def test_a_bomb_costs_no_memory(decoder):
    for data in (HOSTILE["image_too_many_pixels"], _gif_header(65535, 65535), _webp_header(13000, 13000)):
        before = psutil.Process().memory_info().rss
        with pytest.raises(ImageTooManyPixelsError, match="pixels"):
            decoder.decode(data)
        assert psutil.Process().memory_info().rss - before < 50e6


def test_the_limit_is_the_decoders_own_and_not_pillows():
    big = png_bomb(10_000, 10_000)  # Pillow alone would warn at 89 million pixels
    with pytest.raises(
        ImageTooManyPixelsError, match="10000 × 10000 pixels, more than the limit of 99999999"
    ):
        Decoder(Preprocessing(), max_pixels=99_999_999).decode(big)
    photograph = encode(photo_crops(1)[0])  # 500 × 375 = 187 500
    Decoder(Preprocessing(), max_pixels=187_500).decode(photograph)
    with pytest.raises(ImageTooManyPixelsError):
        Decoder(Preprocessing(), max_pixels=187_499).decode(photograph)


def test_a_thread_thin_image_is_refused_before_it_is_resized(decoder):
    before = psutil.Process().memory_info().rss
    with pytest.raises(ImageTooManyPixelsError, match="long and thin"):
        decoder.decode(encode(Image.new("RGB", (60_000, 1)), "PNG"))
    with pytest.raises(ImageTooManyPixelsError, match="long and thin"):
        decoder.decode(encode(Image.new("RGB", (1, 60_000)), "PNG"))
    assert psutil.Process().memory_info().rss - before < 50e6


@pytest.mark.parametrize("name", ["jpeg-q75", "png-rgb", "webp-lossy", "gif"])
def test_a_file_cut_anywhere_is_truncated_or_of_no_type(name, decoder):
    data = dict(parity_images())[name]
    for length in [*range(1, 64, 3), *range(64, len(data) - 200, len(data) // 40)]:
        with pytest.raises((ImageTruncatedError, ImageTypeError)):
            decoder.decode(data[:length])


@pytest.mark.parametrize("name", ["jpeg-progressive", "png-palette-alphas", "webp-alpha", "gif"])
def test_damage_anywhere_raises_nothing_but_image_errors(name, decoder):
    data = dict(parity_images())[name]
    generator = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(data)
        # The first kilobyte is where the structure is.
        for place in generator.integers(0, min(len(data), 1024), 4):
            damaged[place] = generator.integers(0, 256)
        try:
            decoder.decode(bytes(damaged))
        except ImageError as error:
            assert "Traceback" not in error.detail  # noqa: PT017
            assert len(error.detail) < 400  # noqa: PT017


@pytest.mark.parametrize("error", [KeyError("x"), zlib.error("y"), AssertionError(), RecursionError("z")])
def test_whatever_a_reader_raises_becomes_corrupt(error, decoder, monkeypatch):
    def broken(image):
        raise error

    monkeypatch.setattr(decode_module, "_to_rgb", broken)
    with pytest.raises(ImageCorruptError, match="the JPEG is damaged"):
        decoder.decode(encode(photo_crops(1)[0]))


def test_running_out_of_memory_is_not_the_images_fault(decoder, monkeypatch):
    def broken(image):
        raise MemoryError

    monkeypatch.setattr(decode_module, "_to_rgb", broken)
    with pytest.raises(EngineError, match="out of memory") as caught:
        decoder.decode(encode(photo_crops(1)[0]))
    assert caught.value.is_retryable


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "GIF"])
def test_more_than_one_frame_is_refused(file_format, decoder):
    first, *rest = photo_crops(3, (64, 48))
    with pytest.raises(ImageAnimatedError, match="one frame"):
        decoder.decode(encode(first, file_format, save_all=True, append_images=rest))


def test_a_phones_multi_picture_jpeg_gives_its_first_picture(decoder, reference_pixels):
    first, second = photo_crops(2)
    mpo = encode(first, "MPO", save_all=True, append_images=[second])
    assert Image.open(BytesIO(mpo)).format == "MPO"
    out = np.zeros((224, 224, 3), np.uint8)
    decoder.decode(mpo).write_to(out)
    assert np.array_equal(out, reference_pixels(mpo))


def test_sixteen_bit_grey_is_refused_with_advice(decoder):
    with pytest.raises(ImageModeError, match="8 bits a channel"):
        decoder.decode(HOSTILE["image_mode_unsupported"])


@pytest.mark.parametrize("file_format", ["BMP", "TIFF", "PPM", "ICO"])
def test_other_formats_are_never_opened(file_format, decoder):
    with pytest.raises(ImageTypeError, match="JPEG, PNG, WebP or GIF"):
        decoder.decode(encode(photo_crops(1, (64, 48))[0], file_format))


def test_many_threads_share_one_decoder(decoder, reference_pixels):
    files = [data for _, data in parity_images()]
    expected = [reference_pixels(data) for data in files]

    def decode(index: int) -> bool:
        out = np.zeros((224, 224, 3), np.uint8)
        decoder.decode(files[index % len(files)]).write_to(out)
        return np.array_equal(out, expected[index % len(files)])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(decode, range(4 * len(files))))


@pytest.mark.parametrize("size", [(257, 515), (300, 900), (900, 300), (200, 700)])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_tall_and_wide_pictures_have_torchvisions_pixels(size, mode, decoder, reference_pixels):
    # Pillow resizes the taller ones by columns first, which rounds otherwise.
    data = encode(photo_crops(1, size)[0], "PNG", mode=mode)
    out = np.zeros((224, 224, 3), np.uint8)
    decoder.decode(data).write_to(out)
    assert np.array_equal(out, reference_pixels(data))


def test_pictures_wait_for_one_another_when_together_they_are_too_large():
    memory = Memory(100)
    order, holds = [], threading.Event()

    def second() -> None:
        with memory.taken(60):
            order.append("second")

    with memory.taken(60):
        thread = threading.Thread(target=second)
        thread.start()
        holds.wait(0.05)
        order.append("first")
    thread.join(60)
    assert order == ["first", "second"]


def test_waiting_too_long_for_memory_is_not_the_images_fault(monkeypatch):
    monkeypatch.setattr("alexq_worker.inference.memory._WAIT_S", 0.01)
    memory = Memory(100)
    with memory.taken(60), pytest.raises(EngineError, match="60 bytes"), memory.taken(60):
        pass
    with memory.taken(100):  # it was given back
        pass


def test_a_type_that_takes_more_bytes_a_pixel_may_have_fewer(decoder):
    wide = Image.new("RGB", (4_000, 4_000))  # 16 million pixels
    decoder.decode(encode(wide))
    with pytest.raises(ImageTooManyPixelsError, match="bytes to decode"):
        decoder.decode(encode(wide, "WEBP", method=0))


def test_a_large_comment_or_profile_is_nobodys_business(decoder):
    photograph = photo_crops(1)[0]
    with_metadata = encode(photograph, comment=b"x" * 60_000, icc_profile=b"broken" * 50_000)
    assert decoder.decode(with_metadata).image.tobytes() == decoder.decode(encode(photograph)).image.tobytes()


def test_a_crop_larger_than_the_resized_picture_is_refused():
    with pytest.raises(ModelInvalidError, match=r"model\.json"):
        Decoder(Preprocessing(resize=200, crop=224), max_pixels=1000)


def _gif_header(width: int, height: int) -> bytes:
    image = bytearray(encode(photo_crops(1, (8, 8))[0].quantize(4), "GIF"))
    image[6:10] = struct.pack("<HH", width, height)
    return bytes(image)


def _webp_header(width: int, height: int) -> bytes:
    """Return an extended WebP whose canvas is far larger than the picture on it."""
    first, second = photo_crops(2, (8, 8))
    image = bytearray(encode(first, "WEBP", save_all=True, append_images=[second]))
    assert image[12:16] == b"VP8X"
    image[24:27] = (width - 1).to_bytes(3, "little")
    image[27:30] = (height - 1).to_bytes(3, "little")
    return bytes(image)
