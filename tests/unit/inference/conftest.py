"""One warm engine for the whole folder."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import nn

from alexq_schema.model_info import Preprocessing
from alexq_schema.models import ModelStore, ModelVersion
from alexq_worker.inference.architectures import ARCHITECTURES, Architecture
from alexq_worker.inference.decode import Decoder
from alexq_worker.inference.engine import Engine
from alexq_worker.inference.torchvision_ops import import_torchvision

Reference = Callable[[bytes], torch.Tensor]


@pytest.fixture(scope="session")
def models_dir(alexnet_dir: Path) -> Path:
    """AlexNet itself: what is tested here is what it says."""
    return alexnet_dir


@pytest.fixture(scope="session")
def store(models_dir: Path) -> ModelStore:
    return ModelStore(models_dir)


@pytest.fixture(scope="session")
def version(store: ModelStore) -> ModelVersion:
    return store.resolve()


@pytest.fixture(scope="session")
def engine(version: ModelVersion) -> Engine:
    engine = Engine.load(version, device="cpu", precision="fp32", max_batch=64)
    engine.warm_up()
    return engine


@pytest.fixture(scope="session")
def decoder() -> Decoder:
    return Decoder(Preprocessing(), max_pixels=50_000_000)


@pytest.fixture(scope="session")
def reference_pixels() -> Callable[[bytes], np.ndarray]:
    """The notebook's Resize and CenterCrop, before ToTensor."""
    transforms = import_torchvision().transforms
    crop = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    return lambda data: np.asarray(crop(_open_rgb(data)))


@pytest.fixture(scope="session")
def reference(version: ModelVersion) -> Reference:
    """The notebook's code, from a file's bytes to float32[K] probabilities."""
    torchvision = import_torchvision()
    transforms = torchvision.transforms
    model = torchvision.models.alexnet()
    model.load_state_dict(safetensors.torch.load_file(version.weights_path))
    model.eval()
    preprocess = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )

    def probabilities(data: bytes) -> torch.Tensor:
        with torch.no_grad():
            return torch.softmax(model(preprocess(_open_rgb(data)).unsqueeze(0)), dim=1)[0]

    return probabilities


@pytest.fixture
def tiny_alexnet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the name ``alexnet`` stand for a network of 60 kB, where the size is not the point."""
    monkeypatch.setitem(ARCHITECTURES, "alexnet", Architecture(build=_tiny, head="head"))


def _tiny(classes: int) -> nn.Module:
    layers = {"conv": nn.Conv2d(3, 4, 16, stride=16), "pool": nn.AvgPool2d(14), "flat": nn.Flatten()}
    return nn.Sequential(OrderedDict(layers | {"head": nn.Linear(4, classes)}))


@pytest.fixture
def tiny_state() -> Callable[[int], dict[str, torch.Tensor]]:
    """From a number of classes to a state dict of the tiny network, seeded."""

    def state(classes: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(classes)
        shapes = {name: tensor.shape for name, tensor in _tiny(classes).state_dict().items()}
        return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}

    return state


@pytest.fixture
def labels_file(tmp_path: Path) -> Path:
    path = tmp_path / "labels.txt"
    path.write_text("cat\ndog\nhorse\n", "utf-8")
    return path


def _open_rgb(data: bytes) -> Image.Image:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Palette images with Transparency")
        return Image.open(BytesIO(data)).convert("RGB")
