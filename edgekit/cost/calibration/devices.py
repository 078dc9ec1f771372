"""What a connected device is: the key of its calibration."""

from __future__ import annotations

from edgekit.cost.calibration.record import CalibratedDevice
from edgekit.device.base import Transport
from edgekit.device.facts.hardware import hardware_of
from edgekit.device.facts.probe import environment_of
from edgekit.device.facts.target_file import draft_target
from edgekit.device.local import LocalTransport
from edgekit.errors import EdgekitError, TargetError
from edgekit.target import Target


def device_target(transport: Transport) -> tuple[CalibratedDevice, Target]:
    """The device, and the target that probing it gives.

    Raises DeviceError; TargetError: edgekit does not build for this device.
    """
    environment = environment_of(transport)
    draft = draft_target(environment, hardware_of(transport))
    if draft.keys is None:
        lines = "".join(f"\n  {problem}" for problem in draft.problems)
        raise TargetError(
            f"{transport.name} cannot be a target:{lines}",
            "edgekit targets probe shows what the device reports",
        )
    target = Target.model_validate({"name": "calibrated", **draft.keys})
    device = CalibratedDevice(
        model=environment.model,
        processor=environment.cpu,
        architecture=target.architecture,
        cpu=target.cpu,
        features=target.features,
        cores=target.cores,
        clock_ghz=target.clock_ghz,
        threads=target.threads,
    )
    return device, target


def this_host() -> CalibratedDevice | None:
    """None if this host cannot be a target."""
    try:
        return device_target(LocalTransport())[0]
    except EdgekitError:
        return None
