"""Passive waiting of OpenMP's threads.

By default torch's threads wait in a loop and occupy a core that another process may need. With
one busy process on two cores, a MobileNetV2 image then takes 30 times as long. libgomp reads the
environment once, when torch is imported.
"""

from __future__ import annotations

import os
import sys

POLICY = "OMP_WAIT_POLICY"
# If the user has set one of these, it is not changed.
CHOICES = (POLICY, "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def wait_passively() -> None:
    """Let OpenMP's threads sleep while they wait, here and in child processes.

    No effect if torch is already imported, or if the user has set one of CHOICES.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in CHOICES):
        os.environ[POLICY] = "passive"
