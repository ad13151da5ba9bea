"""One URL says how to reach the broker, and Celery and redis-py are told the same."""

from __future__ import annotations

import ssl

import pytest
import redis.sentinel
from kombu import Connection

from alexq_schema.broker import BrokerAddress, connect
from alexq_schema.errors import SettingsError

SENTINELS = "sentinel://me:secret@a:1;sentinel://me:secret@b:2;sentinel://me:secret@c/3?master_name=mymaster"


def test_a_server_over_tls_is_verified_by_all_unless_told_otherwise() -> None:
    address = BrokerAddress.parse("rediss://:secret@host:1/2?ssl_ca_certs=/a%20folder/ca.pem")
    theirs = {"ssl_ca_certs": "/a folder/ca.pem", "ssl_cert_reqs": ssl.CERT_REQUIRED}

    assert address.celery == {
        "broker_url": "rediss://:secret@host:1/2",
        "broker_transport_options": {},
        "broker_use_ssl": theirs,
    }
    assert address.celery_results["redis_backend_use_ssl"] == theirs
    connection = address.connect().connection_pool.make_connection()
    assert (connection.ca_certs, connection.cert_reqs) == ("/a folder/ca.pem", ssl.CERT_REQUIRED)
    assert connection.check_hostname
    assert BrokerAddress.parse("rediss://host").tls == {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    assert BrokerAddress.parse("rediss://host?ssl_cert_reqs=none").tls == {"ssl_cert_reqs": ssl.CERT_NONE}


def test_celery_and_redis_are_told_of_the_same_sentinels() -> None:
    address = BrokerAddress.parse(SENTINELS)

    assert address.celery["broker_transport_options"] == {"master_name": "mymaster"}
    assert address.celery_results["result_backend_transport_options"] == {"master_name": "mymaster"}
    connection = Connection(address.celery["broker_url"])
    assert (len(connection.alt), connection.virtual_host) == (3, "3")
    pool = address.connect(socket_timeout=1).connection_pool
    assert isinstance(pool, redis.sentinel.SentinelConnectionPool)
    assert pool.service_name == "mymaster"
    asked = [sentinel.get_connection_kwargs() for sentinel in pool.sentinel_manager.sentinels]
    assert [(kwargs["host"], kwargs["port"]) for kwargs in asked] == [("a", 1), ("b", 2), ("c", 26379)]
    assert {kwargs["socket_timeout"] for kwargs in asked} == {1}
    given = pool.connection_kwargs
    assert (given["username"], given["password"], given["db"]) == ("me", "secret", 3)


def test_sentinels_and_their_master_are_asked_over_tls_alike() -> None:
    address = BrokerAddress.parse(f"{SENTINELS}&ssl_ca_certs=/ca.pem")
    theirs = {"ssl_ca_certs": "/ca.pem", "ssl_cert_reqs": ssl.CERT_REQUIRED}

    assert address.celery["broker_use_ssl"] == address.celery_results["redis_backend_use_ssl"] == theirs
    for options in (
        address.celery["broker_transport_options"],
        address.celery_results["result_backend_transport_options"],
    ):
        assert options == {"master_name": "mymaster", "sentinel_kwargs": {"ssl": True, **theirs}}
    pool = address.connect().connection_pool
    assert pool.connection_class is redis.sentinel.SentinelManagedSSLConnection
    assert pool.connection_kwargs["ssl_ca_certs"] == "/ca.pem"
    for sentinel in pool.sentinel_manager.sentinels:
        asked = sentinel.connection_pool
        assert issubclass(asked.connection_class, redis.SSLConnection)
        assert asked.connection_kwargs["ssl_cert_reqs"] == ssl.CERT_REQUIRED


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("amqp://host", "knows redis://, rediss:// and sentinel://"),
        ("redis://a;redis://b", "knows redis://"),
        ("redis://host:port/0", "not a Redis URL"),
        ("sentinel://a;redis://b", "knows redis://"),
        ("sentinel://a:1", "add [?]master_name="),
        ("rediss://host?ssl_cert_reqs=perhaps", "ssl_cert_reqs is one of required, optional, none"),
    ],
)
def test_a_url_that_makes_no_sense_is_refused(url: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        connect(url)
