"""API keys: ``alexq_`` + 128 random bits + a checksum, so that a typing error is not looked up, and
scanners that search repositories for secrets find them without false alarms.

Source: the token format of GitHub (prefix, entropy in base62, CRC-32).
"""

from __future__ import annotations

import hashlib
import re
import secrets
import zlib
from enum import StrEnum

PREFIX = "alexq_"
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SECRET_BITS = 128
_SECRET_DIGITS = 22
"""62^22 > 2^128."""
_CHECKSUM_DIGITS = 6
"""62^6 > 2^32."""
LENGTH = len(PREFIX) + _SECRET_DIGITS + _CHECKSUM_DIGITS


class Scope(StrEnum):
    """What a key allows."""

    SUBMIT = "submit"
    """Hand in images, and cancel what was handed in."""
    READ = "read"
    """See jobs, results and models."""
    ADMIN = "admin"
    """Queue dead jobs again, and all that the other two allow."""


def is_tenant(name: str) -> bool:
    """Return whether a tenant may be called so: 1 to 64 of letters, digits, . _ -"""
    return re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name) is not None


def new_key() -> str:
    """Return a new random key."""
    body = PREFIX + _base62(secrets.randbits(_SECRET_BITS), _SECRET_DIGITS)
    return body + _checksum(body)


def is_well_formed(key: str) -> bool:
    """Return whether ``key`` has the form and the checksum of a key, known or not."""
    body, checksum = key[:-_CHECKSUM_DIGITS], key[-_CHECKSUM_DIGITS:]
    return len(key) == LENGTH and key.isascii() and key.startswith(PREFIX) and checksum == _checksum(body)


def hash_of(key: str) -> str:
    """Return what is stored of a key: 128 random bits need no slow hash."""
    return hashlib.sha256(key.encode()).hexdigest()


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), _CHECKSUM_DIGITS)


def _base62(number: int, digits: int) -> str:
    text = ""
    for _ in range(digits):
        number, digit = divmod(number, 62)
        text = _ALPHABET[digit] + text
    return text
