"""Frozen AlexNet features that need no pretrained weights: a bank of filters, arranged for a linear head.

Random filters one after another wash a picture out: a head on them told 0.78 of the generated textures
(:mod:`.textures`) apart. Here the first convolution holds Gabor filters, as the first layer of a trained
AlexNet does, and blobs of colour; each further one hands on most of what it was given (kernels that are 1 at
their centre) beside seeded filters, and ``classifier.1`` averages every channel over the picture: the mean
energy of such a bank is the classical description of a texture. The result is an ordinary state dict.

Source: Krizhevsky 2012, figure 3 (what the first layer learns); Jain and Farrokhnia 1991 (Gabor energies).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexq_worker.inference import architectures

_WAVELENGTHS: Final = (4.0, 6.3, 9.8)
"""Pixels of the network's input."""
_ORIENTATIONS: Final = 8
_COLOURS: Final = 16
_HANDED_ON: Final = {"features.3": 64, "features.6": 112, "features.8": 144, "features.10": 176}
"""Channels of its input that a layer hands on, evenly spread."""
_PLACES: Final = 36
"""6 × 6 places of each channel of the last convolution."""


def seeded_state(classes: int, seed: int = 0) -> dict[str, Tensor]:
    """Return the state dict of an AlexNet with such features and a head of zeros."""
    chance = np.random.default_rng(seed)
    state = {
        name: torch.zeros(tensor.shape)
        for name, tensor in architectures.build("alexnet", classes).state_dict().items()
    }
    state["features.0.weight"].copy_(torch.from_numpy(np.concatenate([_gabors(), _colours(chance)])))
    for layer, count in _HANDED_ON.items():
        weight = state[f"{layer}.weight"]
        weight.copy_(torch.from_numpy(_random_filters(weight, chance)))
        inputs, middle = weight.shape[1], weight.shape[2] // 2
        for output, source in enumerate(np.linspace(0, inputs - 1, count).round().astype(int)):
            weight[output] = 0
            weight[output, source, middle, middle] = 1
    for channel in range(len(state["features.10.bias"])):
        places = slice(channel * _PLACES, (channel + 1) * _PLACES)
        state["classifier.1.weight"][channel, places] = 1 / _PLACES
        state["classifier.4.weight"][channel, channel] = 1
    return state


def _gabors(side: int = 11) -> NDArray[np.float64]:
    """Return [48, 3, side, side]: every wavelength and direction, in two phases, blind to brightness."""
    y, x = np.mgrid[0:side, 0:side] - side // 2
    filters = []
    for wavelength in _WAVELENGTHS:
        window = np.exp(-(x**2 + y**2) / (2 * (0.42 * wavelength + 0.6) ** 2))
        for angle in np.arange(_ORIENTATIONS) * np.pi / _ORIENTATIONS:
            along = x * np.cos(angle) + y * np.sin(angle)
            for phase in (0.0, np.pi / 2):
                wave = window * np.cos(2 * np.pi * along / wavelength + phase)
                wave -= wave.mean()
                filters.append(np.repeat(wave[None] * 8 / (3 * np.abs(wave).sum()), 3, axis=0))
    return np.stack(filters)


def _colours(chance: np.random.Generator, side: int = 11) -> NDArray[np.float64]:
    """Return [16, 3, side, side]: a Gaussian blob in each of as many seeded directions of colour."""
    y, x = np.mgrid[0:side, 0:side] - side // 2
    blob = np.exp(-(x**2 + y**2) / (2 * 2.5**2))
    directions = chance.standard_normal((_COLOURS // 2, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return np.asarray(np.concatenate([directions, -directions])[:, :, None, None] * blob / blob.sum())


def _random_filters(weight: Tensor, chance: np.random.Generator) -> NDArray[np.float64]:
    """Return filters of He's variance (He et al. 2015, eq. 10) whose values sum to 0."""
    values = chance.standard_normal(tuple(weight.shape))
    values -= values.mean((1, 2, 3), keepdims=True)
    return np.asarray(values * (2 / values[0].size) ** 0.5)
