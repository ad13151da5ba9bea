"""Secrets in files: ``ALEXQ_SECRETS_DIR`` names the folder, each file is named as its variable.

So container engines hand them in; a password is then in no URL, no variable and no command line.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

from pydantic_settings import BaseSettings, SecretsSettingsSource

from alexq_schema.errors import SettingsError

SECRETS_DIR: Final = "ALEXQ_SECRETS_DIR"


def source(settings: type[BaseSettings]) -> SecretsSettingsSource | None:
    """Return where ``settings`` find their secrets, or None where no folder is named.

    Raises:
        SettingsError: the folder cannot be read.
    """
    folder = os.environ.get(SECRETS_DIR)
    if not folder:
        return None
    try:
        os.scandir(folder).close()
    except OSError as error:
        raise SettingsError(
            f"{SECRETS_DIR}={folder!r}: cannot read {error.filename}: {error.strerror}; mount the secrets "
            "there, readable by this process's user, or unset it"
        ) from error
    return SecretsSettingsSource(settings, secrets_dir=folder)


def with_password(url: str, password: str) -> str:
    """Return ``url`` with ``password`` in it, unless it has one or names no host that could ask for it."""
    address = urlsplit(url)
    if not password or not address.netloc or address.password is not None:
        return url
    user, _, host = address.netloc.rpartition("@")
    return address._replace(netloc=f"{user}:{quote(password, safe='')}@{host}").geturl()


def put_passwords(values: dict[str, Any]) -> None:
    """Put the passwords among ``values`` of settings into the URLs that they are for."""
    for service in ("database", "broker"):
        url, password = values.get(f"{service}_url"), values.get(f"{service}_password")
        if isinstance(url, str) and isinstance(password, str):
            values[f"{service}_url"] = with_password(url, password)


def require_passwords(urls: Mapping[str, str], given: Collection[str], folder: Path) -> None:
    """Check that each URL with a user has a password.

    Args:
        urls: by service.
        given: the fields that have a value from anywhere.
        folder: where passwords would be.

    Raises:
        ValueError: a password is missing; says where it belongs.
    """
    for service, url in urls.items():
        address = urlsplit(url)
        if address.username and address.password is None and f"{service}_password" not in given:
            raise ValueError(
                f"ALEXQ_{service.upper()}_PASSWORD is missing: ALEXQ_{service.upper()}_URL has a user and no "
                f"password, and there is no file alexq_{service}_password in {folder}; write it there "
                "(an empty one where none is asked for)"
            )
