"""What of the GPU benchmarks needs no GPU: what they say without one, and what they do with odd images."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image

from alexq_schema.model_info import Preprocessing
from alexq_worker.inference.decode import Decoder
from alexq_worker.inference.topk import TopK
from benchmarks.gpu_answers import agreement
from benchmarks.gpu_decode import DeviceDecoder
from benchmarks.gpu_images import SIZE, _generated
from tests.helpers.photos import encode, photo_crops

FILES = [encode(crop) for size in [(500, 375), (300, 400)] for crop in photo_crops(2, size)]
FILES.insert(1, encode(photo_crops(1)[0], progressive=True))
FILES.append(encode(photo_crops(1)[0], "PNG"))
REFUSED = [1, 5]


@pytest.fixture(params=["pretended", "cuda"])
def device_decoder(request, monkeypatch) -> DeviceDecoder:
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
        return DeviceDecoder(Preprocessing(), torch.device("cuda", 0))

    def decode(self: DeviceDecoder, files: Sequence[bytes]) -> list[torch.Tensor]:
        if any(file in (FILES[1], FILES[5]) for file in files):
            raise RuntimeError("nvjpegDecode failed: 5\nlong advice")
        pictures = [np.array(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]
        return [torch.from_numpy(picture).permute(2, 0, 1) for picture in pictures]

    monkeypatch.setattr(DeviceDecoder, "_decode_on_device", decode)
    return DeviceDecoder(Preprocessing(), torch.device("cpu"))


def test_without_a_device_the_benchmark_says_so_and_exits_3():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--save"],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert "no CUDA device was found" in done.stderr
    assert "unmeasured" in done.stderr


def test_what_the_device_refuses_pillow_decodes_and_every_picture_keeps_its_place(device_decoder):
    pixels, fell_back = device_decoder.decode(FILES)
    assert pixels.shape == (6, 224, 224, 3)
    assert set(fell_back) <= set(REFUSED)
    if device_decoder._device.type == "cpu":
        assert fell_back == REFUSED
        assert device_decoder.last_refusal == "nvjpegDecode failed: 5"
    pillow = Decoder(Preprocessing(), 10**6)
    for number, data in enumerate(FILES):
        expected = np.zeros((224, 224, 3), np.uint8)
        pillow.decode(data).write_to(expected)
        differences = np.abs(pixels[number].cpu().numpy().astype(int) - expected)
        assert differences.mean() < (0.0001 if number in fell_back else 2), number


def test_an_answer_of_another_image_does_not_agree():
    expected = TopK(np.array([[1, 2], [3, 4]]), np.array([[0.9, 0.1], [0.6, 0.4]], np.float32))
    same = agreement(expected, expected)
    assert (same.top1, same.difference) == (1.0, 0.0)
    assert same.suffices("fp32")
    turned = agreement(TopK(expected.indices[::-1], expected.probabilities[::-1]), expected)
    assert turned.top1 == 0
    assert turned.difference == pytest.approx(0.3)
    assert not turned.suffices("bf16")


def test_generated_pictures_are_as_large_as_photographs():
    for data in _generated(2):
        assert Image.open(io.BytesIO(data)).size == SIZE
        assert 30_000 < len(data) < 120_000
