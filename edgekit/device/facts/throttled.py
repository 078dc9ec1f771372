"""The firmware of a Raspberry Pi tells in bits what cuts its clock; here they become words."""

from __future__ import annotations

import re

UNDER_VOLTAGE = "under-voltage"
CAPPED = "arm frequency capped"
THROTTLED = "throttled"
SOFT_LIMIT = "soft temperature limit"

# By bit, as it is now; the same 16 bits up: it was so at some time since boot.
WORDS = (UNDER_VOLTAGE, CAPPED, THROTTLED, SOFT_LIMIT)
SINCE_BOOT = 16


def has_occurred(word: str) -> str:
    return f"{word} has occurred"


def throttled_words(text: str) -> tuple[str, ...] | None:
    """From ``throttled=0x50005`` (vcgencmd) or ``50005`` (the kernel's file); None: not told."""
    match = re.fullmatch(r"(?:throttled=0x)?([0-9a-fA-F]{1,8})", text.strip())
    if match is None:
        return None
    bits = int(match[1], 16)
    now = [word for bit, word in enumerate(WORDS) if bits >> bit & 1]
    past = [has_occurred(w) for bit, w in enumerate(WORDS) if bits >> bit + SINCE_BOOT & 1]
    return tuple(now + past)
