"""alexq in fp32 gives what the notebook gives, alone or in any batch."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from alexq_worker.inference.engine import Engine
from tests.helpers.photos import parity_images

IMAGES = parity_images()


@pytest.fixture(scope="module")
def pixels(decoder) -> np.ndarray:
    batch = np.zeros((len(IMAGES), 224, 224, 3), np.uint8)
    for slot, (_, data) in zip(batch, IMAGES, strict=True):
        decoder.decode(data).write_to(slot)
    return batch


@pytest.fixture(scope="module")
def expected(reference) -> tuple[np.ndarray, np.ndarray]:
    """The reference's top-5 probabilities and indices, both [30, 5]."""
    values, indices = torch.stack([reference(data) for _, data in IMAGES]).topk(5, dim=1)
    return values.numpy(), indices.numpy()


@pytest.mark.parametrize(("name", "data"), IMAGES, ids=[name for name, _ in IMAGES])
def test_decoding_is_bit_for_bit_torchvisions(name, data, decoder, reference_pixels):
    out = np.zeros((224, 224, 3), np.uint8)
    decoder.decode(data).write_to(out)
    assert np.array_equal(out, reference_pixels(data)), name


def test_the_comparison_means_something(expected):
    # Untrained, yet far from uniform (0.001) but for the one flat image, different from image to image,
    # and without ties that rounding could turn round.
    values, _ = expected
    assert np.median(values[:, 0]) > 0.1
    assert (values[:, :-1] - values[:, 1:]).min() > 1e-5
    distances = np.abs(values[:, None] - values[None]).max(axis=2) + np.eye(len(values))
    assert distances.min() > 1e-3


def test_one_image_alone_gives_the_notebooks_labels_and_probabilities(engine, pixels, expected):
    for index in range(len(pixels)):
        got = engine.classify(pixels[index : index + 1])
        assert got.indices[0].tolist() == expected[1][index].tolist(), IMAGES[index][0]
        assert np.abs(got.probabilities[0] - expected[0][index]).max() < 1e-4, IMAGES[index][0]


@pytest.mark.parametrize("size", [2, 3, 7, 16, 33, 64])
def test_what_else_is_in_the_batch_does_not_matter(size, engine, pixels, expected):
    chosen = random.Random(size).choices(range(len(pixels)), k=size)
    batch = engine.new_batch()
    batch[:size] = pixels[chosen]
    got = engine.classify(batch[:size])
    assert got.indices.dtype == np.int64
    assert got.probabilities.dtype == np.float32
    assert np.array_equal(got.indices, expected[1][chosen])
    assert np.abs(got.probabilities - expected[0][chosen]).max() < 1e-4


def test_bf16_agrees_with_fp32_to_two_decimals(version, pixels, expected):
    engine = Engine.load(version, device="cpu", precision="bf16", max_batch=8)
    engine.warm_up()  # without bf16 instructions an image takes a sixth of a second
    got = [engine.classify(some) for some in np.array_split(pixels, 4)]
    indices = np.concatenate([one.indices for one in got])
    probabilities = np.concatenate([one.probabilities for one in got])
    assert engine.model_ref.precision == "bf16"
    assert (indices[:, 0] == expected[1][:, 0]).mean() > 0.9
    assert np.abs(probabilities - expected[0]).max() < 0.03
