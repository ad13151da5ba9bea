"""Small pictures and a small network: what is tested is the training, not what is learnt."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from alexq_schema.models import ModelStore
from alexq_schema.settings import Settings
from alexq_worker.inference.architectures import ARCHITECTURES, Architecture
from alexq_worker.inference.versions import import_model
from alexq_worker.training.textures import draw

KINDS = ("checkers", "grating", "clouds")
EACH = 6


def tiny(classes: int) -> nn.Module:
    """A network whose training draws random numbers, as AlexNet's does."""
    layers = {
        "conv": nn.Conv2d(3, 8, 16, stride=16),
        "relu": nn.ReLU(),
        "pool": nn.AdaptiveAvgPool2d(2),
        "flat": nn.Flatten(),
        "dropout": nn.Dropout(0.5),
    }
    return nn.Sequential(OrderedDict(layers | {"head": nn.Linear(32, classes)}))


@pytest.fixture(autouse=True)
def tiny_alexnet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the name ``alexnet`` stand for the small network."""
    monkeypatch.setitem(ARCHITECTURES, "alexnet", Architecture(build=tiny, head="head"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of folders."""
    folder = tmp_path / "pictures"
    for kind in KINDS:
        (folder / kind).mkdir(parents=True)
        for seed in range(EACH):
            draw(kind, seed, side=48).save(folder / kind / f"{seed}.png")
    return folder


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load(models_dir=tmp_path / "models", device="cpu", decode_threads=2)


@pytest.fixture
def store(settings: Settings) -> ModelStore:
    return ModelStore(settings.models_dir)


@pytest.fixture
def base(store: ModelStore, tmp_path: Path) -> str:
    """A version of other labels to begin from."""
    torch.manual_seed(1)
    safetensors.torch.save_file(tiny(2).state_dict(), tmp_path / "base.safetensors")
    (tmp_path / "base.txt").write_text("cat\ndog\n")
    return import_model(store, "base/v1", tmp_path / "base.safetensors", tmp_path / "base.txt").info.ref
