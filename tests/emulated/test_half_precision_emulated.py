"""A bundle in half precision on emulated cores, with and without arithmetic for it."""

from __future__ import annotations

import pytest
from conftest import ROOT

import edgekit
from edgekit.bundle.manifest import read_manifest
from edgekit.measure.emulated import emulate
from edgekit.progress import Silent

pytestmark = [pytest.mark.runtime, pytest.mark.emulated]


def test_it_is_near_the_host_on_both_kinds_of_core(write_recipe, tmp_path, monkeypatch) -> None:
    """Without half-precision arithmetic XNNPACK computes in float32."""
    monkeypatch.syspath_prepend(ROOT / "tests" / "integration")
    from models import SMALL_CNN

    output = tmp_path / "out"
    recipe = write_recipe(SMALL_CNN)
    edgekit.build(recipe, target="rpi5", precision="fp16", effort="quick", output=output)
    manifest = read_manifest(output)
    for cpu in ("cortex-a76", "cortex-a72"):
        needs = manifest.needs.replaced(cpu=cpu)
        found = emulate(output, manifest.replaced(needs=needs), Silent())
        assert found.status == "passed"
        assert found.parity.passed
        assert 25 < found.parity.sqnr_db < 100  # kernels add in another order
        assert "25 dB" in found.parity.rule
