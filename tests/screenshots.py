"""Take the screenshots in ``docs/images``: ``python -m tests.screenshots``.

Of the gateway's page: drawn pictures, a small model that is trained on such, the whole stack of ``alexq up``.
Of the dashboard: rows of a day's work, 200 failures and a worker that died. A real Chromium for both.
"""

from __future__ import annotations

import io
import os
import tempfile
import time
from pathlib import Path

from PIL import Image
from rich.console import Console

from alexq.demo import running_stack
from alexq.stack.broker import EmbeddedBroker
from alexq.stack.log import Log
from alexq.stack.supervisor import Child, Supervisor
from alexq_schema import migrations
from alexq_schema.db.session import Database
from alexq_schema.images import open_image_store
from alexq_schema.models import ModelStore
from alexq_schema.settings import Settings
from alexq_worker.inference.versions import create_untrained
from tests.helpers.browser import running_browser
from tests.helpers.monitor import running_monitor
from tests.helpers.photos import encode
from tests.helpers.seeded import seed
from tests.helpers.textures import draw, make_model

IMAGES = Path(__file__).parents[1] / "docs" / "images"
SETTLES_S = 3.0
"""Until what a page reads in the background is there."""
SHOWN = {
    "breakfast cloth.jpg": ("checkerboard", 1),
    "garden wall.jpg": ("bricks", 3),
    "over the hills.jpg": ("sunrise", 2),
    "party.jpg": ("confetti", 4),
    "sea.jpg": ("waves", 6),
}
SCREENS = (("desktop", 1280, "light", 5), ("desktop", 1280, "dark", 5), ("phone", 390, "light", 2))
"""Name, width in pixels, theme, pictures."""
DASHBOARD = (
    ("overview", "light", 1280),
    ("overview", "dark", 1280),
    ("overview", "light", 390),
    ("results", "light", 1280),
    ("result", "light", 1280),
    ("submissions", "light", 1280),
    ("submission", "light", 1280),
    ("batches", "dark", 1280),
    ("dead", "light", 1280),
    ("models", "dark", 1280),
)
"""Page, theme, width in pixels."""
LEAST_HEIGHT = 600
HEIGHT = 1_200
"""Of a dashboard's page, in pixels, at the most: long ones are cut."""
BAD = {"shopping list.txt": b"Milk, bread, oranges.\n"}


def main() -> None:
    """Take them."""
    with tempfile.TemporaryDirectory() as name:
        _take_of_the_dashboard(Path(name))
    with tempfile.TemporaryDirectory() as name:
        _take_of_the_page(Path(name))


def _take_of_the_dashboard(folder: Path) -> None:
    broker = EmbeddedBroker.configure(folder / "broker")
    supervisor = Supervisor(Log())
    supervisor.start(Child("broker", broker.argv, os.environ, is_ready=lambda _pid: broker.is_ready()))
    settings = Settings.load(
        data_dir=folder,
        models_dir=folder / "models",
        broker_url=broker.url,
        database_url=f"sqlite:///{folder / 'alexq.db'}",
        monitor_admin=True,
        heartbeat_s=150.0,
        silent_after_s=300.0,  # rows show no progress; one shows none for 400 s
    )
    migrations.upgrade(settings.database_url)
    database = Database(settings.database_url)
    models = ModelStore(settings.models_dir)
    models.activate(create_untrained(models).info.ref)
    seeded = seed(database, open_image_store(settings.images_url))
    paths = {
        "result": f"results/{seeded.job_ids['succeeded'][-1]}",
        "submission": f"submissions/{seeded.submission_ids[-2]}",
    }
    try:
        with (
            running_monitor(settings, folder / "monitor.log") as monitor,
            running_browser(folder / "profile") as browser,
        ):
            for page, theme, width in DASHBOARD:
                browser.prefer(prefers_color_scheme=theme, prefers_reduced_motion="reduce")
                browser.size(width, LEAST_HEIGHT)
                browser.open(f"{monitor.url}/{paths.get(page, page)}")
                time.sleep(SETTLES_S)
                where = "phone" if width < 400 else ""
                name = "-".join(filter(None, ("dashboard", page, where, theme)))
                _save(browser.picture(width, HEIGHT), IMAGES / f"{name}.png")
    finally:
        database.close()
        supervisor.stop()


def _take_of_the_page(folder: Path) -> None:
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
