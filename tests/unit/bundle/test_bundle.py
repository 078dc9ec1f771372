"""Manifests, digests and what may be replaced, on a small bundle made by hand."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_bundle import CONTENTS, fill

from edgekit.bundle.manifest import read_manifest, seal, verify
from edgekit.bundle.verdict import read_record
from edgekit.bundle.write import atomic_folder, check_output, output_errors
from edgekit.commands.check import check
from edgekit.errors import BundleError, OutputError


@pytest.fixture
def tiny(tmp_path) -> Path:
    folder = tmp_path / "tiny bündel"
    fill(folder)
    return folder


def test_a_whole_bundle_checks(tiny) -> None:
    document = check(tiny)
    assert document.verdict == "fits"
    assert document.bundle == str(tiny)
    manifest = read_manifest(tiny)
    size = sum(len(data) for data in CONTENTS.values()) + (tiny / "manifest.json").stat().st_size
    assert manifest.size_mb == size / 1e6


def test_equal_bundles_have_equal_bytes(tmp_path) -> None:
    fill(tmp_path / "a")
    fill(tmp_path / "b")
    for name in ("manifest.json", "verdict.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("name", [*CONTENTS, "manifest.json", "verdict.json"])
def test_a_missing_file_is_named(tiny, name) -> None:
    (tiny / name).unlink()
    with pytest.raises(BundleError, match=name):
        check(tiny)


@pytest.mark.parametrize("name", [*CONTENTS, "manifest.json", "verdict.json"])
def test_any_flipped_byte_is_found_and_its_file_named(tiny, name) -> None:
    whole = (tiny / name).read_bytes()
    generator = random.Random(0)
    for place in {0, len(whole) - 1, *(generator.randrange(len(whole)) for _ in range(60))}:
        data = bytearray(whole)
        data[place] ^= 1 << generator.randrange(8)
        (tiny / name).write_bytes(data)
        with pytest.raises(BundleError, match=name):
            check(tiny)


@pytest.mark.parametrize("name", [*CONTENTS, "manifest.json", "verdict.json"])
def test_a_truncated_file_is_named(tiny, name) -> None:
    data = (tiny / name).read_bytes()
    for length in (0, 1, len(data) // 2, len(data) - 1):
        (tiny / name).write_bytes(data[:length])
        with pytest.raises(BundleError, match=name):
            check(tiny)


@pytest.mark.parametrize("name", ["extra.txt", "lib/libevil.so", ".hidden"])
def test_an_added_file_is_named(tiny, name) -> None:
    (tiny / name).write_text("more")
    with pytest.raises(BundleError, match=name):
        check(tiny)


def test_a_link_is_no_file(tiny) -> None:
    (tiny / "runner").unlink()
    (tiny / "runner").symlink_to("/bin/true")
    with pytest.raises(BundleError, match="runner is not a regular file"):
        check(tiny)


@pytest.mark.parametrize(("number", "hint"), [(3, "upgrade"), (1, "build it again")])
def test_another_schema_says_what_to_do(tiny, number, hint) -> None:
    data = json.loads((tiny / "manifest.json").read_bytes())
    data.pop("digest")
    (tiny / "manifest.json").write_bytes(seal({**data, "schema": f"edgekit.bundle/{number}"}))
    with pytest.raises(BundleError, match=rf"edgekit\.bundle/{number}") as caught:
        read_manifest(tiny)
    assert hint in caught.value.hint


@pytest.mark.parametrize("path", ["../escape", "/etc/passwd", "lib/../../x", "a//b", ""])
def test_a_manifest_may_not_name_files_outside(tiny, path) -> None:
    data = json.loads((tiny / "manifest.json").read_bytes())
    data.pop("digest")
    data["files"][0]["path"] = path
    (tiny / "manifest.json").write_bytes(seal(data))
    with pytest.raises(BundleError, match="not valid"):
        check(tiny)


def test_a_verdict_of_another_bundle(tiny, tmp_path) -> None:
    manifest = fill(tmp_path / "other")
    verify(tmp_path / "other", manifest)
    with pytest.raises(BundleError, match="another bundle"):
        read_record(tiny, "0" * 64)


@pytest.mark.parametrize("place", ["nowhere", "file"])
def test_no_bundle_at_all(tmp_path, place) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="there is no bundle"):
        check(tmp_path / place)


def test_not_a_bundle(tmp_path) -> None:
    with pytest.raises(BundleError, match=r"is not a bundle"):
        check(tmp_path)


def test_a_draft_replaces_a_bundle_and_leaves_nothing_beside_it(tiny) -> None:
    check_output(tiny)
    with atomic_folder(tiny) as draft:
        fill(draft)
        (draft / "model.pte").write_bytes(b"newer")
    assert (tiny / "model.pte").read_bytes() == b"newer"
    assert [path.name for path in tiny.parent.iterdir()] == [tiny.name]


def test_a_failing_draft_leaves_what_was_there(tiny) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_folder(tiny) as draft:
        (draft / "half").write_text("")
        raise KeyboardInterrupt
    check(tiny)
    assert [path.name for path in tiny.parent.iterdir()] == [tiny.name]


def test_a_killed_draft_never_takes_the_name(tmp_path) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from edgekit.bundle.write import atomic_folder\n"
        "with atomic_folder(Path(sys.argv[1])) as draft:\n"
        "    (draft / 'half').write_text(''); print('ready', flush=True); time.sleep(60)"
    )
    output = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(output)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert not output.exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["notes.txt", "lib/mine.so"])
def test_a_folder_with_foreign_files_is_never_replaced(tiny, name) -> None:
    (tiny / name).write_text("mine")
    with pytest.raises(OutputError, match=name):
        check_output(tiny)


def test_a_damaged_bundle_may_be_built_anew(tiny) -> None:
    raw = (tiny / "manifest.json").read_bytes()
    (tiny / "manifest.json").write_bytes(raw[: len(raw) - 40])
    check_output(tiny)


def test_outputs_that_cannot_be(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="not a folder"):
        check_output(tmp_path / "file")
    with pytest.raises(OutputError, match="cannot be made"):
        check_output(tmp_path / "file" / "below")
    (tmp_path / "empty").mkdir()
    check_output(tmp_path / "empty")
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    with pytest.raises(OutputError, match="not a folder"):
        check_output(tmp_path / "link")


def test_a_full_disk_is_said(tmp_path) -> None:
    out = tmp_path / "out"
    with pytest.raises(OutputError, match="disk is full"), output_errors(out), atomic_folder(out):
        raise OSError(28, os.strerror(28))
    assert list(tmp_path.iterdir()) == []


def test_time_is_not_in_the_manifest(tiny) -> None:
    before = (tiny / "manifest.json").read_bytes()
    time.sleep(0.01)
    assert read_manifest(tiny).to_bytes() == before


def test_a_manifest_from_before_there_was_state_is_read_as_it_was(tiny) -> None:
    data = json.loads((tiny / "manifest.json").read_bytes())
    assert "state" not in data
    assert read_manifest(tiny).digest == data["digest"]


def test_a_state_is_what_the_program_ends_with(tiny) -> None:
    data = json.loads((tiny / "manifest.json").read_bytes())
    del data["digest"]
    data["state"] = [{"input": "past", "output": "past_next", "initial": "model.pte"}]
    (tiny / "manifest.json").write_bytes(seal(data))
    with pytest.raises(BundleError, match="state"):
        read_manifest(tiny)
