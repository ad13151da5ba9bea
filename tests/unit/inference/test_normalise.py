"""The network sees what torchvision's ToTensor and Normalize would show it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from alexq_schema.model_info import Preprocessing
from alexq_worker.inference.forward import true_fp32
from alexq_worker.inference.normalise import Normalisation
from alexq_worker.inference.torchvision_ops import import_torchvision

CPU = torch.device("cpu")
IMAGES = torch.from_numpy(np.random.default_rng(5).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8))
IMAGES[0, 0, :86, :] = torch.arange(258).view(86, 3) % 256  # every value, in every channel
IMAGES[0, 1, :86, :] = (torch.arange(258).view(86, 3) + 1) % 256
IMAGES[0, 2, :86, :] = (torch.arange(258).view(86, 3) + 2) % 256


def reference(images: torch.Tensor) -> torch.Tensor:
    """Return float32[B, 3, H, W], by torchvision."""
    transforms = import_torchvision().transforms
    preprocess = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    )
    return torch.stack([preprocess(Image.fromarray(image.numpy())) for image in images])


def normalisation(way: str, dtype: torch.dtype) -> Normalisation:
    """Return one that goes, on the CPU, the way that it has for the host or for a device."""
    made = Normalisation(Preprocessing(), CPU, dtype)
    made._on_host, made._folds = way == "host", way == "cuda"
    return made


@pytest.mark.parametrize("way", ["host", "mps"])
@pytest.mark.parametrize("count", [1, 3])
def test_fp32_is_bit_for_bit_torchvisions(way, count):
    inputs = normalisation(way, torch.float32)(IMAGES[:count])
    assert inputs.is_contiguous()
    assert torch.equal(inputs, reference(IMAGES[:count]))


@pytest.mark.parametrize("way", ["host", "mps"])
@pytest.mark.parametrize("count", [1, 3])
def test_bf16_is_torchvisions_rounded_once(way, count):
    inputs = normalisation(way, torch.bfloat16)(IMAGES[:count])
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(inputs, reference(IMAGES[:count]).to(torch.bfloat16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_sizes_and_images_that_do_not_lie_side_by_side_are_the_same(dtype):
    images = IMAGES[::2, :150, :150]
    inputs = Normalisation(Preprocessing(resize=150, crop=150), CPU, dtype)(images)
    assert torch.equal(inputs, reference(images).to(dtype))


@pytest.mark.parametrize(("dtype", "bits"), [(torch.bfloat16, 8), (torch.float16, 11)])
def test_one_multiply_add_differs_from_torchvisions_in_the_last_bit_at_most(dtype, bits):
    inputs, expected = normalisation("cuda", dtype)(IMAGES), reference(IMAGES)
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    assert inputs.dtype == dtype
    unit = 2.0 ** (torch.frexp(expected).exponent - bits)
    assert ((inputs.float() - expected).abs() <= 0.51 * unit + 1e-6).all()


def test_fp32_stays_fp32_while_it_matters_and_the_process_keeps_its_choice():
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before, convolutions = torch.get_float32_matmul_precision(), cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    try:
        assert matmul.allow_tf32
        with true_fp32():
            assert not matmul.allow_tf32
            assert not cudnn.allow_tf32
            assert cudnn.conv.fp32_precision != "tf32"
        assert matmul.allow_tf32
        assert cudnn.allow_tf32 == convolutions
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
