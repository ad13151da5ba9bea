"""The pictures of the demo: photographs that a package carries, and parts of them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Final

from alexq_schema.errors import StackError

if TYPE_CHECKING:
    from PIL.Image import Image

_JPEG_QUALITY: Final = 92

# Fractions of width and height: left, upper, right, lower. Three regions of each photograph.
_CROPS: Final = {
    "left": (0.0, 0.1, 0.55, 0.9),
    "middle": (0.25, 0.15, 0.75, 0.85),
    "right": (0.45, 0.1, 1.0, 0.9),
}


def sample_photographs() -> list[Path]:
    """Return the photographs that the scikit-learn package carries, without importing it.

    Raises:
        StackError: it is not installed.
    """
    package = importlib.util.find_spec("sklearn")
    folders = list(package.submodule_search_locations or []) if package else []
    found = sorted(path for folder in folders for path in Path(folder, "datasets", "images").glob("*.jpg"))
    if not found:
        raise StackError(
            "the demo's photographs come with scikit-learn: pip install scikit-learn "
            '(or "alexq[dev]"), or classify your own: `alexq up`, then `alexq submit PATH…`'
        )
    return found


def make_pictures(folder: Path) -> list[Path]:
    """Write each sample photograph and three crops of it into ``folder`` and return them all."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    pictures: list[Path] = []
    for path in sample_photographs():
        with Image.open(path) as photograph:
            photograph.load()
        pictures.append(_save(photograph, folder / path.name))
        width, height = photograph.size
        for name, (left, upper, right, lower) in _CROPS.items():
            box = (int(left * width), int(upper * height), int(right * width), int(lower * height))
            pictures.append(_save(photograph.crop(box), folder / f"{path.stem}-{name}.jpg"))
    return pictures


def _save(picture: Image, path: Path) -> Path:
    picture.save(path, quality=_JPEG_QUALITY)
    return path
