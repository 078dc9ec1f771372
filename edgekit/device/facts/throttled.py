"""Words for the throttling bits of a Raspberry Pi's firmware."""

from __future__ import annotations

import re

UNDER_VOLTAGE = "under-voltage"
CAPPED = "arm frequency capped"
THROTTLED = "throttled"
SOFT_LIMIT = "soft temperature limit"

# By bit: the present state. The same bit 16 higher: the state occurred since boot.
WORDS = (UNDER_VOLTAGE, CAPPED, THROTTLED, SOFT_LIMIT)
SINCE_BOOT = 16


def has_occurred(word: str) -> str:
    return f"{word} has occurred"


def throttled_words(text: str) -> tuple[str, ...] | None:
    """Parse ``throttled=0x50005`` (vcgencmd) or ``50005`` (the kernel's file); None: unknown."""
    match = re.fullmatch(r"(?:throttled=0x)?([0-9a-fA-F]{1,8})", text.strip())
    if match is None:
        return None
    bits = int(match[1], 16)
    now = [word for bit, word in enumerate(WORDS) if bits >> bit & 1]
    past = [has_occurred(w) for bit, w in enumerate(WORDS) if bits >> bit + SINCE_BOOT & 1]
    return tuple(now + past)
