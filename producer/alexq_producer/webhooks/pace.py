"""When an attempt follows another, and how long anything may take. No clock, no thread."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final

JITTER: Final = 0.2
"""Each pause is longer or shorter by up to this share, at random: receivers that come back are not met by all
at once. Full jitter, from 0 on, would halve the time that an outage may last."""

MAX_RETRY_AFTER_S: Final = 86_400.0
"""The longest that a receiver can ask to be left alone."""

_MINUTE_S: Final = 60.0
_HOUR_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Pace:
    """Times of the webhook worker, in seconds.

    Source of the pauses: the schedule that Standard Webhooks recommends.
    """

    pauses_s: tuple[float, ...] = (
        5.0,
        5 * _MINUTE_S,
        30 * _MINUTE_S,
        2 * _HOUR_S,
        5 * _HOUR_S,
        10 * _HOUR_S,
        14 * _HOUR_S,
        20 * _HOUR_S,
        24 * _HOUR_S,
    )
    """After each failed attempt but the last: ten attempts in about 75 hours."""
    timeout_s: float = 15.0
    """For a whole attempt, from the look-up of the name to the answer."""
    lease_s: float = 60.0
    """After which a delivery that was published or begun, and not heard of since, is done again."""
    look_every_s: float = 1.0
    """How often somebody looks for what is due."""

    def pause_s(self, failures: int, retry_after_s: float | None, random: Random) -> float | None:
        """Return the pause after the ``failures``-th failed attempt (from 1), or None: that was the last."""
        if failures > len(self.pauses_s):
            return None
        pause_s = self.pauses_s[failures - 1] * random.uniform(1 - JITTER, 1 + JITTER)
        return max(pause_s, min(retry_after_s or 0.0, MAX_RETRY_AFTER_S))
