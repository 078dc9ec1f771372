"""OpenMP's threads wait asleep: set before torch is imported, unless the user chose."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

from edgekit.process.waiting import CHOICES

PLACES = (ROOT, ROOT / "tests", ROOT / "scripts" / "bench")

PRINT = "import json, os; print(json.dumps(dict(os.environ)))"


def environment_after(code: str, **chosen: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if name not in CHOICES}
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; {PRINT}"],
        capture_output=True, text=True, check=True, env=clean | chosen,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


SET = "from edgekit.process.waiting import wait_passively; wait_passively()"


def test_it_is_set_for_this_process_and_its_children() -> None:
    assert environment_after(SET)["OMP_WAIT_POLICY"] == "passive"


@pytest.mark.parametrize("name", CHOICES)
def test_what_the_user_chose_stays(name) -> None:
    found = environment_after(SET, **{name: "7"})
    assert {key: found[key] for key in CHOICES if key in found} == {name: "7"}


def test_nothing_is_promised_where_torch_is_there_already() -> None:
    found = environment_after(f"import sys; sys.modules['torch'] = sys; {SET}")
    assert "OMP_WAIT_POLICY" not in found


IMPORTED = """
import sys, os
class Watch:
    def find_spec(self, name, *_):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY")); sys.stdout.flush(); os._exit(0)
sys.meta_path.insert(0, Watch())
"""
STARTED = {
    "the command line": (
        "import sys; sys.argv = ['edgekit', 'build', 'recipe.py', '--target', 'x86']\n"
        "from edgekit.cli.main import main; main()"
    ),
    "build": "import edgekit; edgekit.build('recipe.py', target='x86')",
    "the tests": "import conftest, torch",
    "benchmarks": "import side_by_side, torch",
}


@pytest.mark.parametrize("start", STARTED.values(), ids=STARTED)
def test_it_is_set_when_torch_is_imported(start, tmp_path) -> None:
    clean = {name: value for name, value in os.environ.items() if name not in CHOICES}
    clean["PYTHONPATH"] = os.pathsep.join(map(str, PLACES))
    (tmp_path / "recipe.py").write_text("import torch\n")
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED + start],
        capture_output=True, text=True, check=False, env=clean, cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout.split() == ["passive"], done.stderr
