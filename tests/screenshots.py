"""Take the screenshots in ``docs/images``: ``python -m tests.screenshots``.

Drawn pictures, a small model that is trained on such, the whole stack of ``alexq up``, a real Chromium.
"""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path

from PIL import Image
from rich.console import Console

from alexq.demo import running_stack
from alexq_schema.models import ModelStore
from tests.helpers.browser import running_browser
from tests.helpers.photos import encode
from tests.helpers.textures import draw, make_model

IMAGES = Path(__file__).parents[1] / "docs" / "images"
SHOWN = {
    "breakfast cloth.jpg": ("checkerboard", 1),
    "garden wall.jpg": ("bricks", 3),
    "over the hills.jpg": ("sunrise", 2),
    "party.jpg": ("confetti", 4),
    "sea.jpg": ("waves", 6),
}
SCREENS = (("desktop", 1280, "light", 5), ("desktop", 1280, "dark", 5), ("phone", 390, "light", 2))
"""Name, width in pixels, theme, pictures."""
BAD = {"shopping list.txt": b"Milk, bread, oranges.\n"}


def main() -> None:
    """Take them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = ModelStore(folder / "models")
        store.activate(make_model(store, folder))
        os.environ |= {
            "ALEXQ_MODELS_DIR": str(store.models_dir),
            "ALEXQ_GATEWAY_PORT": "0",
            "ALEXQ_MONITOR_PORT": "0",
        }
        pictures = {name: encode(draw(kind, seed), quality=90) for name, (kind, seed) in SHOWN.items()}
        with running_stack(folder / "stack", Console(stderr=True)) as stack:
            for screen, width, theme, count in SCREENS:
                with running_browser(folder / f"profile-{screen}-{theme}") as browser:
                    browser.prefer(prefers_color_scheme=theme, prefers_reduced_motion="reduce")
                    browser.size(width, 900)
                    browser.open(stack.gateway_url)
                    browser.drop(dict(list(pictures.items())[:count]) | BAD)
                    browser.wait_for('.card[data-state="succeeded"]', count)
                    browser.wait_for('.card[data-state="refused"]')
                    browser.wait_for("#overall[hidden]")
                    _save(browser.picture(width), IMAGES / f"page-{screen}-{theme}.png")


def _save(picture: bytes, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    colours = Image.open(io.BytesIO(picture)).convert("RGB").quantize(256)
    colours.save(path, optimize=True)


if __name__ == "__main__":
    main()
