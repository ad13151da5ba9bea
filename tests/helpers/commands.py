"""What a real broker is told and asked."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

import redis


@dataclass(frozen=True)
class Command:
    """One command as the broker ran it."""

    name: str
    arguments: str
    is_script: bool

    def touches(self, *keys: str) -> bool:
        """Return whether one of these keys is named, or a priority's list of one."""
        words = {word.split("\\x06")[0].strip('"') for word in self.arguments.split()}
        return not words.isdisjoint(keys)


class Commands:
    """Notes every command while the context lasts."""

    def __init__(self, broker_url: str) -> None:
        self.seen: list[Command] = []
        self._client = redis.Redis.from_url(broker_url, socket_timeout=None)
        self._monitor = self._client.monitor()
        self._thread = threading.Thread(target=self._listen, name="commands", daemon=True)

    def __enter__(self) -> Self:
        self._monitor.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.echo(f"the end of {id(self)}")
        self._thread.join(60)
        self._monitor.__exit__(None, None, None)
        self._client.close()

    def _listen(self) -> None:
        with suppress(redis.ConnectionError):
            for told in self._monitor.listen():
                name, _, arguments = told["command"].partition(" ")
                self.seen.append(Command(name.upper(), arguments, told["client_type"] == "lua"))
                if f"the end of {id(self)}" in arguments:
                    return


def workers_waiting(client: redis.Redis) -> int:
    """Return how many connections wait for the next message of a queue: a worker has one for each lane."""
    return sum(each["cmd"] == "blmove" for each in client.client_list())
