"""Crops, labels and temperature as plain torchvision gives them; a batch without them is as ever."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from alexq_schema.errors import ModelNotReadyError
from alexq_schema.options import Crops, Options
from alexq_worker.inference.decode import Decoder
from alexq_worker.inference.engine import Engine
from alexq_worker.inference.torchvision_ops import import_torchvision
from alexq_worker.inference.weights import load_network
from tests.helpers.photos import encode, photo_crops

PHOTOS = [encode(crop) for crop in photo_crops(2)] + [encode(photo_crops(1, (300, 471))[0], "PNG")]


@pytest.fixture(scope="module")
def engine(version) -> Engine:
    engine = Engine.load(version, device="cpu", precision="fp32", max_batch=8)
    engine.warm_up()
    return engine


@pytest.fixture(scope="module")
def decoder(version) -> Decoder:
    return Decoder(version.info.preprocessing, 10**7)


def entries(decoder: Decoder, data: bytes, crops: int) -> np.ndarray:
    out = np.zeros((crops, 224, 224, 3), np.uint8)
    decoder.decode(data, crops).write_to(out[0] if crops == 1 else out)
    return out


@pytest.fixture(scope="module")
def logits(version):
    """What torchvision's own transforms and network give of the ten crops of a file: float32[10, K]."""
    transforms = import_torchvision().transforms
    network = load_network(version, (torch.device("cpu"),), "fp32")
    after = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    )

    def reference(data: bytes) -> torch.Tensor:
        image = transforms.Resize(256)(Image.open(BytesIO(data)).convert("RGB"))
        with torch.inference_mode():
            return network(torch.stack([after(crop) for crop in transforms.TenCrop(224)(image)]))

    return reference


@pytest.mark.parametrize("data", PHOTOS)
def test_ten_crops_are_torchvisions_bit_for_bit(decoder: Decoder, data: bytes) -> None:
    transforms = import_torchvision().transforms
    image = transforms.Resize(256)(Image.open(BytesIO(data)).convert("RGB"))
    expected = [np.asarray(crop) for crop in transforms.TenCrop(224)(image)]

    assert (entries(decoder, data, 10) == np.stack(expected)).all()


@pytest.mark.parametrize("temperature", [1.0, 0.5, 4.0])
def test_the_average_of_ten_crops_is_the_references(engine, decoder, logits, temperature) -> None:
    pixels = np.concatenate([entries(decoder, data, 10) for data in PHOTOS])  # more than go through at once

    answers = engine.score(
        pixels, [Options(crops=Crops.TEN, top_k=20, temperature=temperature)] * len(PHOTOS)
    )

    for data, (indices, values) in zip(PHOTOS, answers, strict=True):
        expected = (logits(data) / temperature).softmax(1).mean(0)
        assert len(set(indices)) == 20
        assert values == pytest.approx(expected.topk(20).values.tolist(), abs=1e-4)
        assert values == pytest.approx(expected[indices].tolist(), abs=1e-4)  # two may be as likely


def test_each_image_of_a_batch_gets_what_it_wants_and_the_others_are_as_ever(engine, decoder, logits) -> None:
    plain = np.concatenate([entries(decoder, data, 1) for data in PHOTOS])
    as_ever = engine.classify(plain)
    mixed = np.concatenate([plain[:1], entries(decoder, PHOTOS[1], 10), plain[2:]])

    first, ten, third = engine.score(
        mixed, [Options(), Options(crops=Crops.TEN, top_k=100), Options(top_k=7, temperature=2.0)]
    )

    assert first[0] == as_ever.indices[0].tolist()
    assert first[1] == pytest.approx(as_ever.probabilities[0].tolist(), abs=1e-4)
    assert len(ten[0]) == 100
    expected = (logits(PHOTOS[2])[4] / 2).softmax(0)  # the fifth crop is the centre
    assert third[1] == pytest.approx(expected.topk(7).values.tolist(), abs=1e-4)
    assert third[1] == pytest.approx(expected[third[0]].tolist(), abs=1e-4)


def test_nothing_is_scored_before_the_warm_up(version) -> None:
    engine = Engine.load(version, device="cpu", precision="fp32", max_batch=1)
    with pytest.raises(ModelNotReadyError):
        engine.score(
            np.zeros((1, 224, 224, 3), np.uint8), [Options(crops=Crops.ONE, top_k=9, temperature=1.0)]
        )
