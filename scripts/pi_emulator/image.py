"""The image that all emulated machines start from: a kernel and a root file system.

It is made of Debian packages alone. They are unpacked, not installed: nothing of the guest runs
here, nothing is mounted, and no privilege is needed. It holds no key: see access.py.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pi_emulator.common import TO_BUILD, PiError, find_program, require, run, say, working

SUITE = "bookworm"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
ROOT_SIZE = "512M"
# What apt says of a mirror that is being synchronized, or is busy.
UNDER_WAY = re.compile(r"Hashes of expected file|Hash Sum mismatch|  (404|50\d)  ")
UUID = "0ed9e417-0000-4000-8000-000000000001"
GUEST = Path(__file__).parent / "guest"
# What a small Raspberry Pi OS has, as far as edgekit and its tests can notice.
PACKAGES = """
    base-files base-passwd bash busybox-static coreutils dash debianutils diffutils findutils grep
    gzip hostname libc-bin libpython3-stdlib libstdc++6 linux-image-cloud-arm64 mawk
    mount openssh-server openssh-sftp-server procps python3-minimal sed tar usr-is-merged
    util-linux
"""
# What the 32-bit system has besides, for the runtime that runs by the device's Python.
PACKAGES_32 = "python3-numpy"
# Debian chooses these libraries while it installs: name -> the folder that has it.
CHOSEN = {"libblas.so.3": "blas", "liblapack.so.3": "lapack"}
# Not unpacked: this host's own settings, and what no program in the guest reads.
UNWANTED = """
    ./dev/* ./etc/hostname ./etc/resolv.conf ./etc/apt ./lib/udev ./lib/systemd ./usr/lib/klibc
    ./usr/lib/linux-image-* ./usr/share/doc ./usr/share/man ./usr/share/info ./usr/share/locale
    ./usr/share/perl5 ./usr/share/lintian ./usr/share/bash-completion ./usr/share/initramfs-tools
    ./usr/src ./var/lib/apt ./var/lib/dpkg ./var/cache/*
"""
# What the kernel has not built in; NVMe, which the root lies on, and ext4 it has.
DRIVERS = ("virtio_pci", "virtio_blk", "virtio_net")
# Programs that only busybox brings, as links to it. Names that a package brings stay.
BUSYBOX = "awk free ip less ping poweroff reboot vi wget which"
FOLDERS = {
    "home/pi": 0o755, "mnt/noexec": 0o755, "mnt/small": 0o755, "proc": 0o555, "root": 0o700,
    "sys": 0o555, "tmp": 0o1777, "var/tmp": 0o1777,
}  # fmt: skip


@dataclass(frozen=True)
class Image:
    folder: Path

    @property
    def kernel(self) -> Path:
        return self.folder / "kernel"

    @property
    def root(self) -> Path:
        return self.folder / "root.ext4"


def find_image(folder: Path, bits: int = 64) -> Image | None:
    """The image in ``folder`` as this version makes it. ``bits``: of its system, 64 or 32; the
    kernel always has 64.
    """
    image = Image(folder / f"{_stem(bits)}-{_key()}")
    return image if image.folder.is_dir() else None


def build_image(folder: Path, mirror: str | None = None, bits: int = 64) -> Image:
    """Return the image in ``folder``; it is made where it is missing, and appears whole.

    ``mirror``: a Debian mirror's address; None is what this machine's apt is set up with.
    Raises PiError.
    """
    if found := find_image(folder, bits):
        return found
    require(TO_BUILD)
    folder.mkdir(parents=True, exist_ok=True)
    with _only_one(folder / "build.lock"):
        for remains in folder.glob(".image*"):  # of a build that was killed
            shutil.rmtree(remains, ignore_errors=True)
        if found := find_image(folder, bits):  # another build was faster
            return found
        image = Image(folder / f"{_stem(bits)}-{_key()}")
        with tempfile.TemporaryDirectory(dir=folder, prefix=".image-") as draft:
            _fill(Path(draft), image.folder.name, mirror, bits)
            for outdated in folder.glob(f"{_stem(bits)}-*"):
                shutil.rmtree(outdated)
            (Path(draft) / "whole").rename(image.folder)
    return image


def _stem(bits: int) -> str:
    return "image" if bits == 64 else f"image{bits}"


def _key() -> str:
    """Changes when the recipe of the image does."""
    digest = hashlib.sha256()
    for path in [Path(__file__), *sorted(GUEST.rglob("*"))]:
        if path.is_file():
            digest.update(str(path.relative_to(Path(__file__).parent)).encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        waited = 0
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if waited % 3 == 0:
                    say("another build is under way: waiting for it")
                time.sleep(1)
                waited += 1
        yield


def _fill(draft: Path, name: str, mirror: str | None, bits: int) -> None:
    whole, tree = draft / "whole", draft / "tree"
    whole.mkdir()
    with working(f"fetching Debian packages for {bits}-bit Arm, unpacking them"):
        _unpack(_sources(mirror), tree, draft, bits)
    with working(f"making {name}"):
        _link_folders(tree)
        _link_chosen(tree)
        _take_kernel(tree, whole / "kernel")
        _add_accounts(tree)
        _add_own_files(tree)
        for path, mode in FOLDERS.items():
            (tree / path).mkdir(parents=True, exist_ok=True)
            (tree / path).chmod(mode)
        _make_file_system(tree, whole / "root.ext4")


def _sources(mirror: str | None) -> list[str]:
    """Lines for apt: this machine's own Debian sources, turned to the guest's release."""
    signed = f"[signed-by={KEYRING}] " if KEYRING.is_file() else ""
    if mirror:
        return [f"deb {signed}{mirror} {SUITE} main"]
    wanted = "$(REPO_URI) $(RELEASE) $(COMPONENT)"
    # --no-release-info: also where apt-get update was never run
    list_sources = ["apt-get", "indextargets", "--no-release-info", "--format", wanted]
    rows = run([*list_sources, "Created-By: Packages"])
    release = _os_release()
    own = rf"(\S+) {re.escape(release or '')}(|-updates|-security) main"
    found = {re.fullmatch(own, row) for row in rows.splitlines()} if release else set()
    lines = {f"deb {signed}{match[1]} {SUITE}{match[2]} main" for match in found if match}
    if not any(f" {SUITE} main" in line for line in lines):
        raise PiError(
            "this machine's apt has no Debian mirror set up to take the guest's packages from",
            "name one: build --mirror URL (and: sudo apt-get install debian-archive-keyring)",
        )
    return sorted(lines)


def _os_release() -> str | None:
    """The release of Debian that this machine runs, None where it runs something else."""
    try:
        text = Path("/etc/os-release").read_text()
    except OSError:
        return None
    fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    return fields.get("VERSION_CODENAME", "").strip('"') if fields.get("ID") == "debian" else None


def _packages(bits: int) -> list[str]:
    """The architectures, the system's first, and the packages. A 32-bit system has the 64-bit
    kernel too.
    """
    if bits == 64:
        return ["arm64", ",".join(PACKAGES.split())]
    own = [f"{one}:arm64" if one.startswith("linux-image") else one for one in PACKAGES.split()]
    return ["armhf,arm64", ",".join([*own, PACKAGES_32])]


def _unpack(sources: list[str], tree: Path, draft: Path, bits: int) -> None:
    """Unpack Debian's packages into ``tree``. A mirror that is being synchronized offers lists that
    do not fit together for minutes: it is asked again, at last without the updates, whose lists
    change daily.
    """
    main_only = [line for line in sources if line.endswith(f" {SUITE} main")]
    attempts = [(0, sources), (20, sources), (60, sources), (0, main_only)]
    for pause_s, lines in attempts:
        time.sleep(pause_s)
        try:
            _unpack_once(lines, tree, draft, bits)
            break
        except PiError as error:
            if lines is main_only or not UNDER_WAY.search(error.message):
                raise
        say("the mirror is busy, or being synchronized: asking it again, at last without updates")


def _unpack_once(sources: list[str], tree: Path, draft: Path, bits: int) -> None:
    """Stream mmdebstrap's archive of unpacked packages into ``tree``."""
    shutil.rmtree(tree, ignore_errors=True)  # of an attempt before
    tree.mkdir()
    architectures, packages = _packages(bits)
    (draft / "sources.list").write_text("\n".join(sources) + "\n")
    fetch = [
        str(find_program("mmdebstrap")), "--variant=extract", "--mode=chrootless", "--format=tar",
        f"--architectures={architectures}", f"--include={packages}", *_apt_options(),
        SUITE, "-", str(draft / "sources.list"),
    ]  # fmt: skip
    merge = r"--transform=flags=rh;s,^\./\(bin\|sbin\|lib\)/,./usr/\1/,"
    unpack = ["tar", "-x", "-C", str(tree), "--no-same-owner", "-p", merge]
    unpack += [f"--exclude={pattern}" for pattern in UNWANTED.split()]
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    with (draft / "log").open("w+b") as log:
        with subprocess.Popen(
            fetch, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL,
            env=os.environ | {"TMPDIR": str(draft), "PATH": path},
            process_group=0,  # where it fails, it hangs up on its whole group
        ) as fetching:  # fmt: skip
            try:
                unpacked = subprocess.run(unpack, stdin=fetching.stdout, stderr=log, check=False)
            except BaseException:
                fetching.terminate()
                raise
        if fetching.returncode or unpacked.returncode:
            log.seek(0)
            said = log.read().decode(errors="replace").strip()[-3000:]
            raise PiError(f"the guest's packages could not be unpacked:\n{said}", "see above")


def _apt_options() -> list[str]:
    """How this machine's apt reaches its mirror: proxies, retries, checks."""
    kept = r"Acquire::(http|https|Check-|Retries).* \".+\";"
    return [
        f"--aptopt={line}"
        for line in run(["apt-config", "dump"]).splitlines()
        if re.fullmatch(kept, line)
    ]


def _link_folders(tree: Path) -> None:
    """As Debian has it since 12: /bin, /sbin and /lib are those of /usr."""
    for name in ("bin", "sbin", "lib"):
        place = tree / name
        if place.is_dir():
            place.rmdir()
        place.symlink_to(f"usr/{name}")
    (tree / "usr/sbin/init").symlink_to("../bin/busybox")
    for name in BUSYBOX.split():
        if not any(os.path.lexists(tree / "usr" / at / name) for at in ("bin", "sbin")):
            (tree / "usr/bin" / name).symlink_to("busybox")


def _link_chosen(tree: Path) -> None:
    for name, folder in CHOSEN.items():
        for path in tree.glob(f"usr/lib/*/{folder}/{name}"):
            (path.parent.parent / name).symlink_to(f"{folder}/{name}")


def _take_kernel(tree: Path, kernel: Path) -> None:
    """The kernel lies outside the file system; of its modules only the drivers stay."""
    next((tree / "boot").glob("vmlinuz-*")).rename(kernel)
    shutil.rmtree(tree / "boot")
    (modules,) = (tree / "usr/lib/modules").iterdir()
    found = {path.stem.replace("-", "_"): path for path in modules.rglob("*.ko")}
    contents = {path.name: path.read_bytes() for path in _in_order(found)}
    shutil.rmtree(modules)
    modules.mkdir()
    for name, content in contents.items():
        (modules / name).write_bytes(content)
    (modules / "order").write_text("".join(f"{name}\n" for name in contents))


def _in_order(found: dict[str, Path]) -> list[Path]:
    """The drivers, each after what it depends on. That differs from kernel to kernel."""
    order: list[Path] = []

    def add(name: str) -> None:
        path = found.get(name.replace("-", "_"))
        if path is None or path in order:  # None: built into the kernel
            return
        depends = re.search(rb"\0depends=([^\0]*)\0", path.read_bytes())
        for other in depends[1].decode().split(",") if depends else []:
            add(other)
        order.append(path)

    for name in DRIVERS:
        add(name)
    return order


def _add_accounts(tree: Path) -> None:
    """Debian's own accounts, sshd's, and an ordinary user. Nobody has a password."""
    masters = tree / "usr/share/base-passwd"
    users = (masters / "passwd.master").read_text()
    users += (
        "sshd:*:100:65534::/run/sshd:/usr/sbin/nologin\npi:*:1000:1000:,,,:/home/pi:/bin/bash\n"
    )
    (tree / "etc/passwd").write_text(users)
    (tree / "etc/group").write_text((masters / "group.master").read_text() + "pi:*:1000:\n")
    shutil.copy(tree / "usr/share/openssh/sshd_config", tree / "etc/ssh/sshd_config")


def _add_own_files(tree: Path) -> None:
    """Readable by all in the guest, whatever the checkout's permissions are."""
    for path in GUEST.rglob("*"):
        if path.is_file():
            target = tree / path.relative_to(GUEST)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())


def _make_file_system(tree: Path, target: Path) -> None:
    """ext4 without a journal: it is never written to, each machine has an overlay."""
    options = ["-t", "ext4", "-O", "^has_journal,^metadata_csum", "-m", "0", "-L", "root"]
    options += ["-U", UUID, "-E", f"hash_seed={UUID},root_owner=0:0", "-d", str(tree)]
    mke2fs = str(find_program("mke2fs"))
    run([*_as_root(), mke2fs, "-q", *options, str(target), ROOT_SIZE])


def _as_root() -> list[str]:
    """What makes the builder's own files look like root's, to a program run behind it."""
    if os.geteuid() == 0:
        return []
    for prefix in (["unshare", "--map-root-user"], ["fakeroot"]):
        program = find_program(prefix[0])
        if program and subprocess.run([*prefix, "true"], capture_output=True).returncode == 0:
            return prefix
    raise PiError(
        "files in the image must belong to root, and this user can make no such files: neither "
        "user namespaces (unshare --map-root-user) nor fakeroot work here",
        "sudo apt-get install fakeroot, or build as root",
    )
