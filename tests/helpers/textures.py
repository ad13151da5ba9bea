"""Drawn pictures of eight kinds, and a small trained model that tells them apart: for screenshots."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression

from alexq_schema.models import ModelStore
from alexq_worker.inference import architectures
from alexq_worker.inference.torchvision_ops import import_torchvision
from alexq_worker.inference.versions import create_untrained, import_model

KINDS = ("stripes", "checkerboard", "polka dots", "rings", "waves", "bricks", "confetti", "sunrise")
SIZE = (480, 360)
_EACH = 24

_PALETTES = (
    ("#0b3954", "#f4d35e", "#ee964b"),
    ("#264653", "#e9c46a", "#e76f51"),
    ("#f7ede2", "#84a59d", "#f28482"),
    ("#22223b", "#c9ada7", "#9a8c98"),
    ("#fefae0", "#606c38", "#bc6c25"),
    ("#e0fbfc", "#3d5a80", "#ee6c4d"),
)

Plane = NDArray[np.float64]


def draw(kind: str, seed: int) -> Image.Image:
    """Return a picture of this kind; the same seed gives the same."""
    chance = np.random.default_rng([KINDS.index(kind), seed])
    ground, ink, other = (
        np.array([int(colour[n : n + 2], 16) for n in (1, 3, 5)], float)
        for colour in _PALETTES[chance.integers(len(_PALETTES))]
    )
    width, height = SIZE
    y, x = np.mgrid[0:height, 0:width].astype(float)
    angle = chance.uniform(-0.5, 0.5)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    step = chance.uniform(38, 64)
    first, second = _masks(kind, u, v, x, y, step, chance)
    picture = ground + (ink - ground) * first[..., None]
    picture += (other - picture) * second[..., None]
    light = 1.06 - 0.25 * np.hypot(x / width - 0.4, y / height - 0.35)
    grain = chance.normal(0, 3, picture.shape)
    return Image.fromarray(np.clip(picture * light[..., None] + grain, 0, 255).astype(np.uint8))


def _soft(distance: Plane) -> Plane:
    """Return 1 inside (negative), 0 outside, with a smooth edge."""
    return np.clip(0.5 - distance / 2, 0, 1)


def _masks(
    kind: str, u: Plane, v: Plane, x: Plane, y: Plane, step: float, chance: np.random.Generator
) -> tuple[Plane, Plane]:
    nothing = np.zeros_like(u)
    width, height = SIZE
    match kind:
        case "stripes":
            thin = np.abs(u % (3 * step) - step) - step / 8
            return _soft(np.abs(u % step - step / 2) - step / 4), _soft(thin)
        case "checkerboard":
            squares = np.sin(np.pi * u / step) * np.sin(np.pi * v / step)
            return _soft(-squares * step / 2), nothing
        case "polka dots":
            row = np.floor(v / step)
            du, dv = (u + row % 2 * step / 2) % step - step / 2, v % step - step / 2
            return _soft(np.hypot(du, dv) - 0.3 * step), _soft(np.hypot(du, dv) - 0.12 * step)
        case "rings":
            away = np.hypot(x - width * chance.uniform(0.3, 0.7), y - height * chance.uniform(0.3, 0.7))
            return _soft(np.abs(away % step - step / 2) - step / 4), _soft(away - step / 2)
        case "waves":
            wave = v + step / 2.2 * np.sin(2 * np.pi * u / (2.6 * step))
            thin = np.abs(wave % (4 * step) - step) - 4
            return _soft(np.abs(wave % step - step / 2) - step / 4), _soft(thin)
        case "bricks":
            row = np.floor(y / (step / 1.6))
            dx, dy = (x + row % 2 * step * 0.8) % (1.6 * step), y % (step / 1.6)
            joint = np.minimum(np.minimum(dx, 1.6 * step - dx), np.minimum(dy, step / 1.6 - dy)) - 3
            return _soft(-joint), nothing
        case "confetti":
            first, second = nothing.copy(), nothing.copy()
            for number in range(150):
                left, top = chance.uniform(0, width), chance.uniform(0, height)
                turn = chance.uniform(0, np.pi)
                near = np.s_[max(0, int(top) - 16) : int(top) + 16, max(0, int(left) - 16) : int(left) + 16]
                a = (x[near] - left) * np.cos(turn) + (y[near] - top) * np.sin(turn)
                b = (y[near] - top) * np.cos(turn) - (x[near] - left) * np.sin(turn)
                target = (first, second)[number % 2][near]
                np.maximum(target, _soft(np.maximum(np.abs(a) - 11, np.abs(b) - 5)), out=target)
            return first, second
        case _:
            horizon = height * chance.uniform(0.55, 0.75)
            sun = np.hypot(x - width * chance.uniform(0.3, 0.7), y - horizon)
            sky = np.clip(y / horizon, 0, 1) ** 1.5 * (y < horizon)
            return sky * 0.6, _soft(sun - 62) * (y < horizon)


def make_model(store: ModelStore, folder: Path) -> str:
    """Add ``alexnet/textures``: seeded features and a head that is trained on drawn pictures."""
    base = safetensors.torch.load_file(create_untrained(store).weights_path)
    state = {name: tensor for name, tensor in base.items() if not name.startswith("classifier.6")}
    network = import_torchvision().models.alexnet(weights=None, num_classes=len(KINDS)).eval()
    network.load_state_dict(state, strict=False)
    transforms = import_torchvision().transforms
    prepare = transforms.Compose(
        [
            *(transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    seeds = range(100, 100 + _EACH)
    pictures = [(number, draw(kind, seed)) for number, kind in enumerate(KINDS) for seed in seeds]
    with torch.inference_mode():
        features = torch.cat(
            [
                network.classifier[:6](network.avgpool(network.features(prepare(picture)[None])).flatten(1))
                for _, picture in pictures
            ]
        )
    mean, spread = features.mean(0), features.std(0) + 1e-3
    head = LogisticRegression(C=0.01, max_iter=500).fit(
        ((features - mean) / spread).numpy(), [number for number, _ in pictures]
    )
    weight = (torch.tensor(head.coef_, dtype=torch.float32) / spread).contiguous()
    state["classifier.6.weight"] = weight
    state["classifier.6.bias"] = torch.tensor(head.intercept_, dtype=torch.float32) - weight @ mean
    architectures.check_fits(state, network, "the textures model")
    weights, labels = folder / "textures.safetensors", folder / "textures.txt"
    safetensors.torch.save_file(state, weights)
    labels.write_text("\n".join(KINDS))
    return import_model(store, "alexnet/textures", weights, labels).info.ref
