"""Whether a worker can use its image store, asked once before it begins."""

from __future__ import annotations

import threading
from typing import Final

from alexq_schema.errors import ImageStoreError
from alexq_schema.images import ImageStore

ANSWERS_WITHIN_S: Final = 6.0
"""Above this a store is not waited for at the start; a worker that has begun waits longer."""


def require_usable(store: ImageStore, url: str, within_s: float = ANSWERS_WITHIN_S) -> None:
    """Check that images can be written to the store, which is at ``url``; nothing stays there.

    Raises:
        ImageStoreError: it refuses, or does not answer; says which setting, what was found, what to do.
    """
    found: list[ImageStoreError] = []

    def ask() -> None:
        try:
            store.check()
        except ImageStoreError as error:
            found.append(error)

    # A daemon thread: one that hangs in a mount that is gone must not keep the process from ending.
    asking = threading.Thread(target=ask, name="alexq-store-check", daemon=True)
    asking.start()
    asking.join(within_s)
    if asking.is_alive():
        raise ImageStoreError(
            f"ALEXQ_IMAGES_URL={url}: no answer within {within_s:g} s; check the mount, or the network and "
            "AWS_ENDPOINT_URL"
        )
    if found:
        raise ImageStoreError(f"ALEXQ_IMAGES_URL={url}: {found[0]}") from found[0]
