"""API keys: their form."""

from __future__ import annotations

from alexq_schema import keys


def test_a_mistyped_key_is_told_by_its_checksum() -> None:
    key = keys.new_key()

    assert keys.is_well_formed(key)
    for position in range(len(key)):
        other = "a" if key[position] != "a" else "b"
        assert not keys.is_well_formed(key[:position] + other + key[position + 1 :])
    assert not keys.is_well_formed(key[:-1])
    assert not keys.is_well_formed("")


def test_keys_are_random_and_never_alike() -> None:
    assert len({keys.new_key() for _ in range(1_000)}) == 1_000
