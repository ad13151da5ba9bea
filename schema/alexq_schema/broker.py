"""How every process reaches the broker: one Redis, over TLS or not, or the master that Sentinels name.

    redis://user:password@host:6379/0
    rediss://host:6379/0?ssl_ca_certs=/ca.pem&ssl_certfile=/client.pem&ssl_keyfile=/client-key.pem
    sentinel://user:password@a:26379;sentinel://b:26379;sentinel://c:26379/0?master_name=mymaster
    sentinel://user:password@a:26379;sentinel://b:26379/0?master_name=mymaster&ssl_ca_certs=/ca.pem

Celery takes the same URLs but part of it elsewhere, in options of its own; here each side gets its form.
Only this module of the schema imports redis, and only when it is asked for a client.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qs, urlencode, urlsplit, urlunsplit

from alexq_schema.errors import SettingsError

if TYPE_CHECKING:
    from redis import Redis

SENTINEL_PORT = 26_379
_REQUIREMENTS = {
    "required": ssl.CERT_REQUIRED,
    "optional": ssl.CERT_OPTIONAL,
    "none": ssl.CERT_NONE,
}


@dataclass(frozen=True)
class BrokerAddress:
    """What ``ALEXQ_BROKER_URL`` says."""

    url: str = field(repr=False)
    """Without what follows ``?``; for Sentinels, one URL each with semicolons between."""
    options: dict[str, str]
    """What follows ``?``."""

    @classmethod
    def parse(cls, broker_url: str) -> BrokerAddress:
        """Return what the URL says.

        Raises:
            SettingsError: another scheme, no ``master_name`` for Sentinels, or a malformed port.
        """
        servers: list[SplitResult] = []
        options: dict[str, str] = {}
        for text in broker_url.split(";"):
            parts = urlsplit(text)
            options |= {name: values[-1] for name, values in parse_qs(parts.query).items()}
            servers.append(parts._replace(query=""))
        path = max(parts.path for parts in servers)  # the database: Celery looks for it in the first
        servers = [parts._replace(path=path) for parts in servers]
        address = cls(";".join(map(urlunsplit, servers)), options)
        schemes = {parts.scheme for parts in servers}
        try:
            ports = [parts.port for parts in servers]
        except ValueError as error:
            raise SettingsError(f"ALEXQ_BROKER_URL is not a Redis URL: {error}") from error
        if schemes == {"sentinel"} and not options.get("master_name"):
            raise SettingsError("ALEXQ_BROKER_URL names Sentinels but no master: add ?master_name=… to it")
        if schemes == {"sentinel"} or (schemes <= {"redis", "rediss"} and len(ports) == 1):
            if options.get("ssl_cert_reqs", "required") not in _REQUIREMENTS:
                raise SettingsError(f"ALEXQ_BROKER_URL: ssl_cert_reqs is one of {', '.join(_REQUIREMENTS)}")
            return address
        raise SettingsError(
            "ALEXQ_BROKER_URL is not a Redis URL: alexq knows redis://, rediss:// and sentinel://"
        )

    @property
    def is_sentinel(self) -> bool:
        """Return whether the URL names Sentinels."""
        return self.url.startswith("sentinel:")

    @property
    def celery(self) -> dict[str, Any]:
        """Celery's settings for it as broker, ``broker_transport_options`` among them."""
        config: dict[str, Any] = {"broker_url": self.url, "broker_transport_options": {}}
        if self.is_sentinel:
            config["broker_transport_options"] = self._of_sentinels
        if self.tls:
            config["broker_use_ssl"] = self.tls
        return config

    @property
    def celery_results(self) -> dict[str, Any]:
        """Celery's settings for it as result backend."""
        config: dict[str, Any] = {"result_backend": self.url}
        if self.is_sentinel:
            config["result_backend_transport_options"] = self._of_sentinels
        if self.tls:
            config["redis_backend_use_ssl"] = self.tls
        return config

    @property
    def tls(self) -> dict[str, Any]:
        """The TLS settings in kombu's form; empty without TLS. A server is verified unless told otherwise.

        Sentinels and the master that they name are reached alike: over TLS where any of these is given.
        """
        given = {name: value for name, value in self.options.items() if name.startswith("ssl_")}
        if not (self.url.startswith("rediss:") or (self.is_sentinel and given)):
            return {}
        return {**given, "ssl_cert_reqs": _REQUIREMENTS[given.get("ssl_cert_reqs", "required")]}

    @property
    def _of_sentinels(self) -> dict[str, Any]:
        """Celery's transport options for Sentinels."""
        options: dict[str, Any] = {"master_name": self.options["master_name"]}
        if self.tls:
            options["sentinel_kwargs"] = {"ssl": True, **self.tls}
        return options

    def connect(self, **options: Any) -> Redis:
        """Return a client; it connects on first use, to whoever is master then.

        Args:
            options: as ``redis.Redis`` takes them.

        Raises:
            SettingsError: the URL is malformed.
        """
        import redis
        import redis.sentinel

        try:
            if not self.is_sentinel:
                url = f"{self.url}?{urlencode(self.options)}" if self.options else self.url
                client: Redis = redis.Redis.from_url(url, **options)
                return client
            if self.tls:
                options = {**options, "ssl": True, **self.tls}
            servers = [urlsplit(text) for text in self.url.split(";")]
            first = servers[0]
            sentinels = redis.sentinel.Sentinel(  # type: ignore[no-untyped-call]
                [(server.hostname, server.port or SENTINEL_PORT) for server in servers],
                sentinel_kwargs=options,
            )
            master: Redis = sentinels.master_for(  # type: ignore[no-untyped-call]
                self.options["master_name"],
                username=first.username,
                password=first.password,
                db=int(first.path.strip("/") or 0),
                **options,
            )
        except ValueError as error:
            raise SettingsError(f"ALEXQ_BROKER_URL is not a Redis URL: {error}") from error
        return master


def connect(broker_url: str, **options: Any) -> Redis:
    """Return a client of the broker at ``broker_url``: see :meth:`BrokerAddress.connect`."""
    return BrokerAddress.parse(broker_url).connect(**options)
