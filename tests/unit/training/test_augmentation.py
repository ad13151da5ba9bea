"""What a training changes about a picture, and what it leaves."""

from __future__ import annotations

import numpy as np
from PIL import Image

from alexq_worker.training.augmentation import Augmentation, PcaColour

SIDE = 8


def ramp(width: int = 16, height: int = 12) -> Image.Image:
    """A picture of which each pixel says where it was: red its column, green its row."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.arange(width)
    pixels[..., 1] = np.arange(height)[:, None]
    return Image.fromarray(pixels)


def results(augmentation: Augmentation, count: int = 400) -> list[np.ndarray]:
    return [augmentation(ramp(), np.random.default_rng(seed)) for seed in range(count)]


def test_the_papers_crop_is_an_exact_part_from_every_place_and_a_mirror_image_of_one_in_two() -> None:
    found = results(Augmentation(SIDE, 1.0, None))
    mirrored = 0
    places = set()
    for pixels in found:
        is_mirrored = bool(pixels[0, 0, 0] > pixels[0, 1, 0])
        mirrored += is_mirrored
        plain = pixels[:, ::-1] if is_mirrored else pixels
        left, top = int(plain[0, 0, 0]), int(plain[0, 0, 1])
        places.add((left, top))
        assert np.array_equal(plain, np.asarray(ramp().crop((left, top, left + SIDE, top + SIDE))))
    assert places == {(left, top) for left in range(16 - SIDE + 1) for top in range(12 - SIDE + 1)}
    assert 150 < mirrored < 250


def test_the_modern_crop_is_resized_and_never_leaves_the_picture() -> None:
    for pixels in results(Augmentation(SIDE, 0.3, None), 100):
        assert pixels.shape == (SIDE, SIDE, 3)
        assert pixels[..., 0].max() <= 15
        assert pixels[..., 1].max() <= 11


def test_one_generator_makes_one_picture() -> None:
    augmentation = Augmentation(SIDE, 0.3, PcaColour(np.diag([30.0, 20.0, 10.0])))
    once, again, other = (augmentation(ramp(), np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)


def test_colour_is_added_along_the_components_of_the_sets_pixels_a_tenth_of_each() -> None:
    chance = np.random.default_rng(1)
    axes = np.linalg.qr(chance.normal(size=(3, 3)))[0]
    spread = np.array([4.0, 9.0, 25.0])
    pixels = 128 + (chance.normal(size=(640, 640, 3)) * spread) @ axes.T
    colour = PcaColour.of([pixels.round().astype(np.uint8)])

    lengths = np.linalg.norm(colour.components, axis=0)
    assert np.allclose(lengths, spread, rtol=0.03)
    for component, axis in zip((colour.components / lengths).T, axes.T, strict=True):
        assert abs(component @ axis) > 0.999

    grey = np.full((1, 1, 3), 128, np.uint8)
    shifts = np.array([colour(grey, np.random.default_rng(seed))[0, 0] for seed in range(4_000)]) - 127.5
    assert np.allclose(np.std(shifts @ axes, axis=0), 0.1 * spread, rtol=0.1, atol=0.05)
    assert np.all(PcaColour(np.diag([9e9] * 3))(grey, chance) % 255 == 0), "clipped, not wrapped"
