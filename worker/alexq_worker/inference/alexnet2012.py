"""AlexNet as it won ILSVRC-2012, on one device or with its two halves on two.

Source: Krizhevsky, Sutskever, Hinton: ImageNet Classification with Deep Convolutional Neural Networks,
NIPS 2012, sections 3 and 4. The paper says 224 × 224 pixels, its layers need 227 × 227.

The halves are the paper's two GPUs: convolutions 2, 4 and 5 see only the maps of their own half (two
groups), convolution 3 and the fully connected layers see those of both. The response normalisation is the
paper's formula over all maps of a layer, so each half also gets the two maps that adjoin it in the other.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

SIDE = 227
"""Pixels of an image's side."""

_SIZE, _ALPHA, _BETA, _K = 5, 1e-4, 0.75, 2.0
"""Of the response normalisation: n, α, β and k in section 3.3."""

_GROUPS = {"conv2": 2, "conv4": 2, "conv5": 2}

_Pair = tuple[Tensor, Tensor]
"""The same layer's two halves, each on its device."""


class AlexNet2012(nn.Module):
    """float[B, 3, 227, 227] -> float[B, classes] logits; 60,965,224 parameters at 1000 classes."""

    def __init__(self, classes: int) -> None:
        """Build it with ``classes`` outputs."""
        super().__init__()
        layers: dict[str, nn.Module] = {
            "conv1": nn.Conv2d(3, 96, 11, stride=4),  # [B, 96, 55, 55]
            "relu1": nn.ReLU(inplace=True),
            "norm1": _response_norm(),
            "pool1": nn.MaxPool2d(3, stride=2),  # [B, 96, 27, 27]; windows overlap
            "conv2": nn.Conv2d(96, 256, 5, padding=2, groups=_GROUPS["conv2"]),
            "relu2": nn.ReLU(inplace=True),
            "norm2": _response_norm(),
            "pool2": nn.MaxPool2d(3, stride=2),  # [B, 256, 13, 13]
            "conv3": nn.Conv2d(256, 384, 3, padding=1),
            "relu3": nn.ReLU(inplace=True),
            "conv4": nn.Conv2d(384, 384, 3, padding=1, groups=_GROUPS["conv4"]),
            "relu4": nn.ReLU(inplace=True),
            "conv5": nn.Conv2d(384, 256, 3, padding=1, groups=_GROUPS["conv5"]),
            "relu5": nn.ReLU(inplace=True),
            "pool5": nn.MaxPool2d(3, stride=2),  # [B, 256, 6, 6]
        }
        self.features = nn.Sequential(OrderedDict(layers))
        layers = {
            "drop6": nn.Dropout(0.5),
            "fc6": nn.Linear(256 * 6 * 6, 4096),
            "relu6": nn.ReLU(inplace=True),
            "drop7": nn.Dropout(0.5),
            "fc7": nn.Linear(4096, 4096),
            "relu7": nn.ReLU(inplace=True),
            "fc8": nn.Linear(4096, classes),
        }
        self.classifier = nn.Sequential(OrderedDict(layers))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of normalised ``images``."""
        logits: Tensor = self.classifier(self.features(images).flatten(1))
        return logits


def _response_norm() -> nn.LocalResponseNorm:
    # PyTorch divides alpha by the size of the window; the paper does not.
    return nn.LocalResponseNorm(_SIZE, alpha=_ALPHA * _SIZE, beta=_BETA, k=_K)


class TwoHalves(nn.Module):
    """The same network for inference, one half of every layer's maps on each of two devices.

    A state dict of :class:`AlexNet2012` fits. Images come and logits go on the first device.
    """

    def __init__(self, state: Mapping[str, Tensor], devices: tuple[torch.device, torch.device]) -> None:
        """Split ``state`` by outputs: the first half of each tensor's rows goes to the first device."""
        super().__init__()
        self.devices = devices
        names = [name.removesuffix(".weight") for name in state if name.endswith(".weight")]
        self._halves: dict[str, tuple[_Pair, ...]] = {}
        for name in names:
            weights, biases = (
                _copies(state[f"{name}.{kind}"].tensor_split(2), devices) for kind in ("weight", "bias")
            )
            self._halves[name.rpartition(".")[2]] = tuple(zip(weights, biases, strict=True))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, on the first device, of normalised ``images`` there."""
        whole = _copies((images, images), self.devices)
        maps = self._convolve("conv1", whole, stride=4)  # a pair of [B, 48, 55, 55]
        maps = self._pool(self._normalise(maps))
        maps = self._convolve("conv2", maps, padding=2)  # each its own [B, 128, 27, 27]
        maps = self._pool(self._normalise(maps))
        maps = self._convolve("conv3", self._exchange(maps), padding=1)  # both see [B, 256, 13, 13]
        maps = self._convolve("conv4", maps, padding=1)
        maps = self._pool(self._convolve("conv5", maps, padding=1))
        values = self._exchange(_each(lambda half: half.flatten(2), maps))
        values = _each(lambda both: both.flatten(1), values)  # [B, 9216], in the order of the maps
        for name in ("fc6", "fc7"):
            values = self._exchange(_each(torch.relu, self._connect(name, values)))
        return torch.cat(_copies(self._connect("fc8", values), (self.devices[0],) * 2), 1)

    def _convolve(self, name: str, maps: _Pair, *, stride: int = 1, padding: int = 0) -> _Pair:
        halves = zip(maps, self._halves[name], strict=True)
        first, second = (
            functional.conv2d(half, weight, bias, stride, padding).relu_() for half, (weight, bias) in halves
        )
        return first, second

    def _connect(self, name: str, values: _Pair) -> _Pair:
        halves = zip(values, self._halves[name], strict=True)
        first, second = (functional.linear(half, weight, bias) for half, (weight, bias) in halves)
        return first, second

    def _exchange(self, halves: _Pair) -> _Pair:
        """Give both devices both halves, along dimension 1."""
        first, second = (torch.cat(_copies(halves, (device,) * 2), 1) for device in self.devices)
        return first, second

    def _normalise(self, maps: _Pair) -> _Pair:
        edge = _SIZE // 2
        last, following = _copies((maps[0][:, -edge:], maps[1][:, :edge]), self.devices[::-1])
        first = _normalised(torch.cat((maps[0], following), 1))[:, : maps[0].shape[1]]
        return first, _normalised(torch.cat((last, maps[1]), 1))[:, edge:]

    def _pool(self, maps: _Pair) -> _Pair:
        return _each(lambda half: functional.max_pool2d(half, 3, 2), maps)


def _normalised(maps: Tensor) -> Tensor:
    return functional.local_response_norm(maps, _SIZE, _ALPHA * _SIZE, _BETA, _K)


def _each(change: Callable[[Tensor], Tensor], halves: _Pair) -> _Pair:
    return change(halves[0]), change(halves[1])


def _copies(tensors: Sequence[Tensor], devices: tuple[torch.device, torch.device]) -> _Pair:
    first, second = (tensor.to(device) for tensor, device in zip(tensors, devices, strict=True))
    return first, second
