"""The store's script, run by every shell that this host has, on a folder that plays the device."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import threading
import time
from pathlib import Path

import pytest
from small_bundle import fill
from transport_double import TransportDouble, available_shells

from edgekit.bundle.manifest import read_manifest
from edgekit.errors import DeviceError, PreflightError, SettingError, StoreError
from edgekit.progress import Silent
from edgekit.store.store import Release, Store, release_of, store_root


@pytest.fixture(params=available_shells(), ids=lambda shell: shell[0])
def device(request) -> TransportDouble:
    return TransportDouble(request.param)


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "the device's störe"


@pytest.fixture
def store(device, root) -> Store:
    return Store(device, str(root))


@pytest.fixture
def release(tmp_path):
    """Make a release whose model is ``model``."""

    def make(model: str, name: str = "my model") -> Release:
        folder = tmp_path / "bundles" / f"{name}-{model}"
        fill(folder, name, model=model.encode())
        return release_of(folder, read_manifest(folder), None)

    return make


def deploy(store: Store, release: Release):
    return store.install(release, current=True, progress=Silent())


def try_out(store: Store, release: Release):
    return store.install(release, current=False, progress=Silent())


def current(root: Path, name: str = "my model") -> str:
    return (root / name / "current" / "model.pte").read_text()


def on_disk(root: Path, name: str = "my model") -> set[str]:
    return {path.name for path in (root / name / "releases").iterdir()}


def leftovers(root: Path) -> list[str]:
    found = [
        *(root / ".store" / "incoming").iterdir(),
        *root.rglob("*.part"),
        *root.rglob(".link*"),
    ]
    return [str(path) for path in found]


def test_a_fresh_deployment(store, root, release) -> None:
    made = release("one")
    done = deploy(store, made)
    folder = root / "my model" / "releases" / made.id
    assert done.folder == folder
    assert str((root / "my model" / "current").readlink()) == f"releases/{made.id}"
    for file in made.files:
        assert (folder / file.path).read_bytes() == file.source.read_bytes()
    assert stat.S_IMODE((folder / "runner").stat().st_mode) == 0o755
    assert stat.S_IMODE((folder / "model.pte").stat().st_mode) == 0o644
    assert done.sent_bytes == sum(file.size for file in made.files)
    assert (done.reused_bytes, done.was_current) == (0, False)
    assert not leftovers(root)
    assert not (root / ".store" / "lock").is_symlink()


def test_the_same_again_is_one_round_trip(store, device, release) -> None:
    made = release("one")
    deploy(store, made)
    device.round_trips = 0
    done = deploy(store, made)
    assert (done.sent_bytes, done.was_current) == (0, True)
    assert done.reused_bytes == sum(file.size for file in made.files)
    assert device.round_trips == 1


def test_new_weights_send_the_model_and_the_manifest(store, device, root, release) -> None:
    deploy(store, release("one"))
    device.sent_bytes = 0
    made = release("two")
    done = deploy(store, made)
    sizes = {file.path: file.size for file in made.files}
    assert done.sent_bytes == sizes["model.pte"] + sizes["manifest.json"]
    assert done.reused_bytes == sizes["runner"] + sizes["lib/liba.so"]
    assert device.sent_bytes < done.sent_bytes + 1500  # and the lists of files, twice
    assert current(root) == "two"
    runners = (root / "my model" / "releases").glob("*/runner")
    assert len({path.stat().st_ino for path in runners}) == 1  # stored once


def test_equal_contents_are_sent_and_stored_once(store, root, tmp_path) -> None:
    folder = tmp_path / "twins"
    fill(folder, "twins", model=b"\x7fELF")
    made = release_of(folder, read_manifest(folder), None)
    done = deploy(store, made)
    sizes = {file.path: file.size for file in made.files}
    assert done.sent_bytes == sum(sizes.values()) - sizes["model.pte"]
    installed = root / "twins" / "current"
    assert (installed / "runner").stat().st_ino == (installed / "model.pte").stat().st_ino
    other = tmp_path / "other"
    fill(other, "other", model=b"")  # nothing at all is a content too
    deploy(store, release_of(other, read_manifest(other), None))
    assert (root / "other" / "current" / "model.pte").read_bytes() == b""


def test_files_are_shared_between_names(store, root, release) -> None:
    deploy(store, release("one"))
    done = deploy(store, release("one", "other"))
    assert done.reused_bytes == sum(f.size for f in release("one").files if "man" not in f.path)
    runners = root.glob("*/releases/*/runner")
    assert len({path.stat().st_ino for path in runners}) == 1


def test_trying_out_does_not_switch(store, device, root, release) -> None:
    deploy(store, release("one"))
    assert not try_out(store, release("two")).was_current
    assert current(root) == "one"
    assert deploy(store, release("two")).sent_bytes == 0
    assert current(root) == "two"


def test_trying_out_many_costs_no_deployed_release(store, root, release) -> None:
    for model in ("one", "two"):
        deploy(store, release(model))
    for model in "abcdef":
        try_out(store, release(model))
    store.rollback("my model")
    assert current(root) == "one"
    assert len(on_disk(root)) == 5  # two deployed, three tried


def test_rollback_goes_back_and_not_in_circles(store, root, release) -> None:
    ids = {model: release(model).id for model in ("one", "two", "three", "four")}
    for model in ("one", "two", "three"):
        deploy(store, release(model))
    assert store.rollback("my model") == (ids["three"], ids["two"])
    deploy(store, release("four"))
    assert store.rollback("my model") == (ids["four"], ids["two"])
    assert store.rollback("my model") == (ids["two"], ids["one"])
    with pytest.raises(StoreError, match="no release before") as caught:
        store.rollback("my model")
    assert "edgekit ls" in caught.value.hint
    assert current(root) == "one"
    assert deploy(store, release("four")).sent_bytes == 0  # still on the device


def test_old_releases_go(store, root, release) -> None:
    made = [release(f"model {number}") for number in range(6)]
    for one in made:
        deploy(store, one)
    assert on_disk(root) == {one.id for one in made[-3:]}
    assert len((root / "my model" / "deployed").read_text().split()) == 3


def test_the_current_release_stays_whatever_its_age(store, root, release) -> None:
    for model in ("one", "two", "three"):
        deploy(store, release(model))
    store.rollback("my model")
    store.rollback("my model")
    for model in "abcd":
        try_out(store, release(model))
    assert current(root) == "one"


def test_listing_and_removing(store, root, release) -> None:
    first, second, other = release("one"), release("two"), release("one", "other")
    for one in (first, second, other):
        deploy(store, one)
    rows = {(row.name, row.release): row for row in store.releases()}
    assert set(rows) == {("my model", first.id), ("my model", second.id), ("other", other.id)}
    assert rows["my model", second.id].current
    assert not rows["my model", first.id].current
    assert rows["other", other.id].size_mb == pytest.approx(other.manifest.size_mb)
    store.remove("my model")
    assert [row.name for row in store.releases()] == ["other"]
    assert not (root / "my model").exists()
    assert current(root, "other") == "one"
    with pytest.raises(StoreError, match="no my model"):
        store.remove("my model")


def test_an_empty_device_lists_nothing(store) -> None:
    assert store.releases() == ()
    with pytest.raises(StoreError, match="no my model"):
        store.rollback("my model")


@pytest.mark.parametrize("after", [0, 100, 400, 1000, -40])
def test_a_broken_connection_leaves_what_was_there(store, device, root, release, after) -> None:
    deploy(store, release("one"))
    device.break_after = after
    fresh = Store(device, str(root / "second"))
    with pytest.raises(DeviceError, match="lost"):
        fresh.install(release("two"), current=True, progress=Silent())
    assert not (root / "second" / "my model").exists()
    assert not leftovers(root / "second")
    device.break_after = None
    deploy(fresh, release("two"))
    assert current(root / "second") == "two"
    assert current(root) == "one"


def test_what_arrives_changed_is_never_installed(store, device, root, release) -> None:
    deploy(store, release("one"))
    device.garble = True
    with pytest.raises(StoreError, match=r"could not be installed.*missing or damaged"):
        deploy(store, release("two"))
    assert current(root) == "one"
    assert not leftovers(root)
    device.garble = False
    deploy(store, release("two"))
    assert current(root) == "two"


def test_a_release_that_rotted_is_healed(store, root, release) -> None:
    made = release("one")
    deploy(store, made)
    model = root / "my model" / "current" / "model.pte"
    model.write_text("bit rot")  # and with it the object, which is the same file
    done = deploy(store, made)
    assert done.sent_bytes == next(file.size for file in made.files if file.path == "model.pte")
    assert current(root) == "one"


def test_a_file_that_rotted_is_not_reused(store, root, release) -> None:
    first = release("one")
    deploy(store, first)
    (root / "my model" / "current" / "runner").write_bytes(b"rot")
    done = deploy(store, release("two"))
    runner = next(file for file in first.files if file.path == "runner")
    assert (root / "my model" / "current" / "runner").read_bytes() == runner.source.read_bytes()
    assert not leftovers(root)
    assert done.reused_bytes == next(f.size for f in first.files if f.path == "lib/liba.so")


def test_a_file_that_another_client_removes_meanwhile_is_sent(store, device, root, release) -> None:
    """Between the survey and the install."""
    deploy(store, release("one", "other"))
    run = device.run

    def run_after_removal(argv, **options):
        if argv[4] == "install_release":
            shutil.rmtree(root / "other")
            device.run = run
        return run(argv, **options)

    device.run = run_after_removal
    deploy(store, release("one"))
    assert (root / "my model" / "current" / "runner").is_file()


def test_a_release_that_another_client_removes_meanwhile(store, device, root, release) -> None:
    try_out(store, release("one"))
    run = device.run

    def run_after_removal(argv, **options):
        if argv[4] == "adopt":
            shutil.rmtree(root / "my model")
            device.run = run
        return run(argv, **options)

    device.run = run_after_removal
    deploy(store, release("one"))
    assert current(root) == "one"


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@pytest.mark.parametrize("holder", ["4194304 BOOT", "1 BOOT", "1 another-boot"])
def test_a_lock_whose_holder_is_gone_is_taken_over(store, root, release, holder) -> None:
    deploy(store, release("one"))
    (root / ".store" / "lock").symlink_to(holder.replace("BOOT", boot_id()))
    deploy(store, release("two"))
    assert current(root) == "two"


def test_a_lock_that_is_held_is_waited_for_and_then_told(store, device, root, release) -> None:
    deploy(store, release("one"))
    device.edit = lambda text: text.replace("WAIT_S=30", "WAIT_S=2")
    holder = subprocess.Popen(["sh", "-c", "read line", "edgekit-store"], stdin=subprocess.PIPE)
    try:
        (root / ".store" / "lock").symlink_to(f"{holder.pid} {boot_id()}")
        with pytest.raises(StoreError, match=r"busy.*2 s") as caught:
            deploy(store, release("two"))
        assert "try again" in caught.value.hint
        assert current(root) == "one"
        threading.Timer(0.5, (root / ".store" / "lock").unlink).start()
        deploy(store, release("two"))
        assert current(root) == "two"
    finally:
        holder.communicate()


def test_only_a_tried_release_is_discarded(store, root, release) -> None:
    earlier, now, tried = release("one"), release("two"), release("three")
    deploy(store, earlier)
    deploy(store, now)
    try_out(store, tried)
    for made in (earlier, now, tried, release("never installed")):
        store.discard(made.name, made.id)
    assert on_disk(root) == {earlier.id, now.id}
    assert current(root) == "two"
    assert not leftovers(root)
    assert store.rollback("my model") == (now.id, earlier.id)
    try_out(store, tried)
    assert on_disk(root) == {earlier.id, now.id, tried.id}


@pytest.mark.parametrize("made_up", ["", ".", "..", "{}/", "../releases/{}"])
def test_what_is_no_id_of_a_release_discards_nothing(store, root, release, made_up) -> None:
    now = release("one")
    deploy(store, now)
    with pytest.raises(StoreError):
        store.discard(now.name, made_up.format(now.id))
    assert on_disk(root) == {now.id}
    assert current(root) == "one"


def test_two_clients_at_once(device, root, release) -> None:
    made = [release(f"model {number}") for number in range(4)]
    errors: list[BaseException] = []

    def client(one: Release) -> None:
        try:
            deploy(Store(TransportDouble(device.shell), str(root)), one)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=client, args=(one,)) for one in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert (root / "my model" / "current").readlink().name in on_disk(root)
    assert len(on_disk(root)) == 3
    assert not leftovers(root)


def test_the_stable_path_is_there_at_every_moment(store, root, release) -> None:
    for model in ("one", "two"):
        deploy(store, release(model))
    over, seen, failures = threading.Event(), set(), []

    def application() -> None:
        while not over.is_set():
            try:
                seen.add(current(root))
            except OSError as error:
                failures.append(error)

    reader = threading.Thread(target=application)
    reader.start()
    for _ in range(5):
        store.rollback("my model")
        deploy(store, release("two"))
    over.set()
    reader.join()
    assert not failures
    assert seen == {"one", "two"}


def test_uploads_of_a_client_that_vanished_are_cleared(store, root, release) -> None:
    deploy(store, release("one"))
    incoming = root / ".store" / "incoming"
    (incoming / "0123456789abcdef.4194304").mkdir()
    mine = incoming / f"0123456789abcdef.{os.getpid()}"
    mine.mkdir()
    deploy(store, release("two"))
    assert [path.name for path in incoming.iterdir()] == [mine.name]


def test_a_store_that_cannot_be_written_to(device, release) -> None:
    with pytest.raises(PreflightError, match="not writable") as caught:
        deploy(Store(device, "/proc/edgekit"), release("one"))
    assert device.round_trips == 1
    assert "EDGEKIT_ROOT" in caught.value.hint


def test_the_home_folder_of_the_device(device, root, release, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(root))
    done = deploy(Store(device, "~/.local/share/edgekit"), release("one"))
    assert done.folder.is_relative_to(root / ".local" / "share" / "edgekit")


def test_which_folder(monkeypatch, release) -> None:
    manifest = release("one").manifest
    monkeypatch.delenv("EDGEKIT_ROOT", raising=False)
    assert store_root(manifest.root) == "~/.local/share/edgekit"
    named = manifest.replaced(root="/opt/edgekit")
    assert store_root(named.root) == "/opt/edgekit"
    monkeypatch.setenv("EDGEKIT_ROOT", "~/models")
    assert store_root(named.root) == "~/models"
    monkeypatch.setenv("EDGEKIT_ROOT", "models")
    with pytest.raises(SettingError, match="absolute"):
        store_root(named.root)


def test_a_release_is_on_the_disk_before_it_is_current(store, device, root, release) -> None:
    """Every flush writes down what is current at that moment."""
    note = 'echo "$(current_of "my model")" >>"$root/flushed"'
    device.edit = lambda text: text.replace("flush() {", f"flush() {{ {note};")
    first, second = release("one"), release("two")
    deploy(store, first)
    deploy(store, second)
    flushed = (root / "flushed").read_text().split("\n")
    assert flushed == ["", first.id, first.id, second.id, ""]


@pytest.mark.parametrize("name", ["../victim", "my model/current", ".store", "", "."])
def test_a_name_leads_nowhere_else(store, root, release, name) -> None:
    deploy(store, release("one"))
    victim = root.parent / "victim"
    victim.mkdir()
    for act in (store.remove, store.rollback):
        with pytest.raises(StoreError, match="not a valid name"):
            act(name)
    assert victim.is_dir()
    assert current(root) == "one"


def test_digests_that_cannot_be_checked_are_not_taken_as_right(
    store, device, root, release
) -> None:
    """The kernel ends sha256sum where memory is short."""
    deploy(store, release("one"))
    device.edit = lambda text: text.replace("sha256sum -c 2>/dev/null", "sh -c 'kill -9 $$'")
    with pytest.raises(StoreError, match=r"could not be installed.*missing or damaged"):
        deploy(store, release("two"))
    assert current(root) == "one"


def test_removing_from_a_full_disk(store, device, root, release) -> None:
    deploy(store, release("one"))
    device.edit = lambda text: "ulimit -f 0\n" + text  # no file may grow
    store.remove("my model")
    assert not (root / "my model").exists()


def test_a_store_that_nobody_may_change(device, root) -> None:
    """Told at once, and not as if somebody else were there."""
    (root / "my model").mkdir(parents=True)
    (root / ".store").touch()
    with pytest.raises(StoreError, match="cannot be made"):
        Store(device, str(root)).remove("my model")


def test_rollback_where_current_is_missing(store, root, release) -> None:
    for model in ("one", "two"):
        deploy(store, release(model))
    (root / "my model" / "current").unlink()
    assert store.rollback("my model") == ("-", release("two").id)
    assert current(root) == "two"


def test_a_damaged_release_is_listed(store, root, release) -> None:
    for model in ("one", "two", "three"):
        deploy(store, release(model))
    (root / "my model" / "releases" / release("one").id / "manifest.json").write_bytes(b"")
    (root / "my model" / "releases" / release("two").id / "manifest.json").unlink()
    assert sorted(row.size_mb == 0 for row in store.releases()) == [False, True, True]


def test_a_switch_that_breaks_off_is_known(store, device, root, release) -> None:
    """Power goes between the switch and whatever comes after it."""
    for model in ("one", "two"):
        deploy(store, release(model))
    device.edit = lambda text: text.replace('  prune "$1"\n', "  kill -9 $$\n")
    with pytest.raises(StoreError):
        deploy(store, release("three"))
    device.edit = lambda text: text
    assert current(root) == "three"
    deploy(store, release("four"))
    store.rollback("my model")
    assert current(root) == "three"


def test_an_earlier_process_of_the_same_number(store, device, root, release) -> None:
    deploy(store, release("one"))
    device.edit = lambda text: text.replace(".link.$$", ".link.1")
    (root / "my model" / ".link.1").symlink_to(f"releases/{release('one').id}")
    deploy(store, release("two"))
    assert current(root) == "two"


def test_a_release_that_is_there_is_refused_where_it_cannot_run(store, device, release) -> None:
    """The card was moved to another board."""
    try_out(store, release("one"))
    device.edit = lambda text: text.replace("uname -s -r -m", "echo Linux 6 armv7l")
    with pytest.raises(PreflightError, match="armv7l"):
        deploy(store, release("one"))


def test_an_install_that_dies_half_way_is_not_seen(store, device, root, release) -> None:
    """The device is switched off between the release and the switch."""
    deploy(store, release("one"))
    device.edit = lambda text: text.replace('    switch "$1" "$2"\n', "    kill -9 $$\n")
    assert device.edit('    switch "$1" "$2"\n') == "    kill -9 $$\n"
    with pytest.raises(StoreError, match="install_release"):
        deploy(store, release("two"))
    assert current(root) == "one"
    device.edit = lambda text: text
    start = time.monotonic()
    deploy(store, release("two"))
    assert current(root) == "two"
    assert time.monotonic() - start < 25  # the dead one's lock is not waited for
