"""Images between submission and decoding: what is taken in, and where the bytes lie."""

from alexq_schema.images.checking import HEAD_BYTES, check_head, check_image
from alexq_schema.images.files import FileImageStore
from alexq_schema.images.opening import open_image_store
from alexq_schema.images.store import ABANDONED_AFTER_S, PARTS, ImageStore, Staging

__all__ = [
    "ABANDONED_AFTER_S",
    "HEAD_BYTES",
    "PARTS",
    "FileImageStore",
    "ImageStore",
    "Staging",
    "check_head",
    "check_image",
    "open_image_store",
]
