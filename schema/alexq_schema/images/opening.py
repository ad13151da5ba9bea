"""Which store a URL names."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from alexq_schema.errors import SettingsError
from alexq_schema.images.files import FileImageStore
from alexq_schema.images.store import ImageStore

OBJECT_SCHEMES = frozenset({"s3", "gs", "az"})


def open_image_store(url: str) -> ImageStore:
    """Return the store at ``url``: ``file:///folder``, or ``s3://bucket/prefix`` and its like.

    Nothing is asked of the store yet.

    Raises:
        SettingsError: another scheme, a relative path, no bucket, or a package that is not installed.
    """
    parts = urlsplit(url)
    if parts.scheme in OBJECT_SCHEMES and parts.netloc and not parts.query:
        return _open_objects(url)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise SettingsError(
            f"ALEXQ_IMAGES_URL={url!r}: alexq knows file:///absolute/folder and s3://bucket/prefix"
        )
    return FileImageStore(Path(unquote(parts.path)))


def _open_objects(url: str) -> ImageStore:
    try:
        from alexq_schema.images.objects import ObjectImageStore
    except ImportError as error:
        raise SettingsError(f'ALEXQ_IMAGES_URL={url!r} needs obstore: pip install "alexq[s3]"') from error
    return ObjectImageStore(url)
