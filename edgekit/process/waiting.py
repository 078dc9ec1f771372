"""How the threads of OpenMP wait for each other: asleep, not spinning.

torch's threads wait in a loop by default, and hold a core that another process may need. Beside
one busy process on two cores a MobileNetV2 image then takes 30 times as long. libgomp reads the
environment once, when torch is imported.
"""

from __future__ import annotations

import os
import sys

POLICY = "OMP_WAIT_POLICY"
# Whoever has set one of these has chosen.
CHOICES = (POLICY, "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def wait_passively() -> None:
    """Let OpenMP's threads sleep while they wait, here and in child processes.

    Changes nothing where torch is imported already, or where the user has chosen.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in CHOICES):
        os.environ[POLICY] = "passive"
