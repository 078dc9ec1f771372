"""deploy, run, eval and the rest as a user types them, on this host; documents by the schema."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from conftest import build_with_other_weights, documented, run_edgekit

import edgekit
from edgekit.errors import EdgekitError, PreflightError, RecipeError, StoreError

pytestmark = pytest.mark.runtime


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch) -> Path:
    """A store of this test's own."""
    monkeypatch.setenv("EDGEKIT_ROOT", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture(scope="module")
def other_weights(tmp_path_factory) -> Path:
    return build_with_other_weights("x86", tmp_path_factory.mktemp("other"))


def test_a_deployment_s_life(digits_bundle, other_weights, store) -> None:
    first = documented("deploy", str(digits_bundle), "local")
    whole = sum(path.stat().st_size for path in digits_bundle.rglob("*") if path.is_file())
    assert first["sent_bytes"] == whole - (digits_bundle / "verdict.json").stat().st_size
    assert (first["name"], first["reused_bytes"]) == ("digits", 0)
    again = documented("deploy", str(digits_bundle), "local")
    assert (again["sent_bytes"], again["release"]) == (0, first["release"])
    second = documented("deploy", str(other_weights), "local")
    assert second["release"] != first["release"]
    model = (other_weights / "model.pte").stat().st_size
    assert second["sent_bytes"] <= model + 10_000
    rows = documented("ls", "local")["bundles"]
    assert {(row["release"], row["current"]) for row in rows} == {
        (first["release"], False),
        (second["release"], True),
    }
    assert rows[0]["size_mb"] == pytest.approx(edgekit.check(digits_bundle).budgets[2].value, 1e-3)
    back = run_edgekit("rollback", "digits", "local")
    assert back.returncode == 0
    assert first["release"] in back.stdout
    assert (store / "digits" / "current").readlink().name == first["release"]
    assert run_edgekit("rollback", "digits", "local").returncode == 1
    assert run_edgekit("rm", "digits", "local").returncode == 0
    assert documented("ls", "local")["bundles"] == []
    gone = run_edgekit("rm", "digits", "local")
    assert gone.returncode == 1
    assert "there is no digits" in gone.stderr


def test_bench_installs_and_does_not_switch(digits_bundle, other_weights) -> None:
    edgekit.deploy(digits_bundle, "local")
    edgekit.bench(other_weights, "local", runs=3)
    rows = edgekit.ls("local").bundles
    assert len(rows) == 2
    current = next(row for row in rows if row.current)
    assert current.release == edgekit.deploy(digits_bundle, "local").release


def test_run_gives_what_predict_gives(digits_bundle, tmp_path) -> None:
    image = np.random.default_rng(0).random((1, 1, 8, 8), dtype=np.float32)
    np.save(tmp_path / "x.npy", image)
    output = tmp_path / "y.npy"
    done = documented(
        "run", str(digits_bundle), "local", "--input", str(tmp_path / "x.npy"),
        "--output", str(output),
    )  # fmt: skip
    assert done["outputs"][0]["shape"] == [1, 10]
    assert np.load(output).shape == (1, 10)
    edgekit.run(digits_bundle, "local", inputs=[tmp_path / "x.npy"], outputs=[tmp_path / "z.npy"])
    assert (tmp_path / "z.npy").read_bytes() == output.read_bytes()


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((1, 1, 8, 8)), "float64, but the bundle's input 'image' is float32"),
        (np.zeros((2, 1, 8, 8), np.float32), r"shape \[2, 1, 8, 8\]"),
        (np.array([None]), "cannot be read"),
    ],
)
def test_inputs_that_do_not_fit(digits_bundle, tmp_path, array, said) -> None:
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(EdgekitError, match=said):
        edgekit.run(
            digits_bundle, "local", inputs=[tmp_path / "x.npy"], outputs=[tmp_path / "y.npy"]
        )
    assert not (tmp_path / "y.npy").exists()


def test_the_number_of_inputs_and_outputs(digits_bundle, tmp_path) -> None:
    done = run_edgekit("run", str(digits_bundle), "local", "--output", "y.npy")
    assert done.returncode == 1
    assert "the bundle has 1 input (image), but 0 were given" in done.stderr


def test_several_inputs_and_outputs(write_recipe, tmp_path) -> None:
    import models

    output = tmp_path / "two"
    edgekit.build(write_recipe(models.TWO_INPUTS), target="x86", output=output)
    specs = edgekit.check(output).program
    generator = np.random.default_rng(1)
    paths = []
    for spec in specs.inputs:
        paths.append(tmp_path / f"{spec.name}.npy")
        array = generator.random(spec.shape) * 3
        np.save(paths[-1], array.astype(spec.dtype))
    results = [tmp_path / f"out{index}.npy" for index in range(len(specs.outputs))]
    done = edgekit.run(output, "local", inputs=paths, outputs=results)
    assert [row.name for row in done.outputs] == [spec.name for spec in specs.outputs]
    for path, spec in zip(results, specs.outputs, strict=True):
        array = np.load(path)
        assert (list(array.shape), str(array.dtype)) == (list(spec.shape), spec.dtype)


def test_eval_is_the_host_s_accuracy(digits_bundle) -> None:
    found = documented("eval", str(digits_bundle), "local")
    assert found["accuracy"] == found["host_accuracy"]
    assert found["inferences"] == 500


def test_eval_with_another_recipe(digits_bundle, other_weights, write_recipe) -> None:
    found = edgekit.evaluate(digits_bundle, "local", recipe=other_weights.parent / "recipe.py")
    assert found.host_accuracy is None
    assert "changed" in found.note
    wrong = write_recipe(
        "def model():\n    return nn.Linear(4, 3)\n"
        "def example_inputs():\n    return (torch.rand(1, 4),)\n"
        "def evaluate(predict):\n    return 0.0\n"
    )
    with pytest.raises(RecipeError, match="not this bundle's recipe"):
        edgekit.evaluate(digits_bundle, "local", recipe=wrong)


def test_after(digits_bundle, tmp_path) -> None:
    mark = tmp_path / "restarted"
    done = documented("deploy", str(digits_bundle), "local", "--after", f"touch '{mark}'")
    assert mark.exists()
    assert done["changed"]
    with pytest.raises(StoreError, match=r"is deployed, but .* code 3.*no such service"):
        edgekit.deploy(digits_bundle, "local", after="echo no such service >&2; exit 3")
    assert edgekit.ls("local").bundles[0].current


def test_after_may_leave_a_program_running(digits_bundle, tmp_path) -> None:
    place = tmp_path / "pid"
    edgekit.deploy(digits_bundle, "local", after=f"sleep 600 & echo $! > '{place}'")
    os.kill(int(place.read_text()), signal.SIGTERM)  # raises where it is gone


@pytest.mark.parametrize("name", ["../digits", "digits/current", ".store", "-x", ""])
def test_names_that_are_none(name, store) -> None:
    done = run_edgekit("rm", "--", name, "local")
    assert done.returncode == 2
    assert "cannot be the name of a deployment" in done.stderr
    assert not store.exists()


def test_a_bundle_for_another_processor(digits_arm_bundle, store) -> None:
    with pytest.raises(PreflightError, match="aarch64") as caught:
        edgekit.deploy(digits_arm_bundle, "local")
    assert "nothing was sent" in caught.value.message
    assert not (store / "digits").exists()


def test_a_damaged_bundle_is_not_deployed(bundle, store) -> None:
    (bundle / "model.pte").write_bytes(b"no model")
    done = run_edgekit("deploy", str(bundle), "local")
    assert done.returncode == 1
    assert "model.pte was changed" in done.stderr
    assert not store.exists()
