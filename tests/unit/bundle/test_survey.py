"""From the survey's output to facts, and from facts to what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from small_bundle import fill

from edgekit.bundle.manifest import read_manifest
from edgekit.errors import PreflightError
from edgekit.store.preflight import require
from edgekit.store.survey import NEEDED_TOOLS, Survey, parse_survey

PI = """
@@edgekit uname
Linux 6.1.21-v8+ aarch64

@@edgekit cpuinfo
processor\t: 0
Features\t: fp asimd evtstrm crc32 cpuid
CPU part\t: 0xd08

@@edgekit meminfo
MemTotal:         945000 kB
MemAvailable:     100000 kB

@@edgekit glibc
glibc 2.31

@@edgekit loaders
/lib/ld-linux-aarch64.so.1

@@edgekit libstdcxx
/usr/lib/aarch64-linux-gnu/libstdc++.so.6.0.28

@@edgekit root
/home/pi/.local/share/edgekit

@@edgekit tools
TOOLS

@@edgekit unwritable

@@edgekit noexec

@@edgekit free_kb
Filesystem     1024-blocks    Used Available Capacity Mounted on
/dev/mmcblk0p2    15000000 9000000   1000000      90% /

@@edgekit current
0123456789abcdef

@@edgekit damaged
absent

@@edgekit held
aaaa /home/pi/.local/share/edgekit/my model/releases/1/runner
bbbb /home/pi/.local/share/edgekit/my model/releases/1/lib/liba.so
"""


PI = PI.replace("TOOLS", "\n".join(NEEDED_TOOLS))


@pytest.fixture
def survey() -> Survey:
    return parse_survey(PI)


@pytest.fixture
def manifest(tmp_path):
    fill(tmp_path)
    made = read_manifest(tmp_path)
    needs = made.needs.model_copy(
        update={"architecture": "aarch64", "cpu_features": ("fp", "asimd"), "glibcxx": "3.4.22"}
    )
    return made.replaced(needs=needs)


def test_what_a_pi_tells(survey) -> None:
    assert survey == Survey(
        root="/home/pi/.local/share/edgekit",
        architecture="aarch64",
        loaders=("/lib/ld-linux-aarch64.so.1",),
        cpu_features=frozenset({"fp", "asimd", "evtstrm", "crc32", "cpuid"}),
        glibc=(2, 31),
        has_musl=False,
        glibcxx=(3, 4, 28),
        memory_available_mb=102.4,
        free_mb=1024.0,
        lacking_tools=(),
        unwritable="",
        noexec="",
        current="0123456789abcdef",
        damaged=None,
        held=frozenset({"aaaa", "bbbb"}),
    )


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("glibc 2.36", (2, 36)),
        ("/lib/aarch64-linux-gnu/libc-2.28.so", (2, 28)),
        ("ld.so (Debian GLIBC 2.41-12) stable release version 2.41.", (2, 41)),
        ("/lib/ld-musl-aarch64.so.1", None),
        ("", None),
    ],
)
def test_the_c_library(said, version) -> None:
    assert parse_survey(PI.replace("glibc 2.31", said)).glibc == version


def test_the_newest_cpp_library_counts() -> None:
    more = PI.replace(
        "so.6.0.28", "so.6.0.28\n/usr/lib/libstdc++.so.6.0.9\n/lib/libstdc++.so.6.0.30"
    )
    assert parse_survey(more).glibcxx == (3, 4, 30)
    assert parse_survey(PI.replace("libstdc++.so.6.0.28", "")).glibcxx is None


def test_a_device_that_tells_nothing_is_not_refused(manifest) -> None:
    require(
        manifest,
        parse_survey("\n@@edgekit root\n/r\n@@edgekit tools\n" + " ".join(NEEDED_TOOLS)),
        "pi",
        10.0,
    )


def test_damaged_files_are_named(survey) -> None:
    assert parse_survey(PI.replace("absent", "model.pte\nrunner")).damaged == (
        "model.pte",
        "runner",
    )
    assert parse_survey(PI.replace("absent", "")).damaged == ()


@pytest.mark.parametrize(
    ("change", "has", "wants"),
    [
        ({"architecture": "armv7l"}, "armv7l", "aarch64"),
        ({"loaders": ("/lib/ld-linux-armhf.so.3",)}, "ld-linux-armhf.so.3", "64-bit system"),
        ({"glibc": (2, 24)}, "glibc 2.24", "2.28"),
        ({"glibc": None, "has_musl": True}, "musl", "glibc 2.28"),
        ({"glibcxx": (3, 4, 21)}, "GLIBCXX_3.4.21", "GLIBCXX_3.4.22"),
        ({"glibcxx": None}, "no libstdc++.so.6", "GLIBCXX_3.4.22"),
        ({"cpu_features": frozenset({"fp"})}, "lacks asimd", "bundle requires"),
        ({"free_mb": 0.5}, "0.5 MB free", "1 MB to spare"),
        ({"memory_available_mb": 9.0}, "9.0 MB available", "10.0 MB"),
        ({"unwritable": "Permission denied"}, "Permission denied", "EDGEKIT_ROOT"),
        ({"noexec": "Permission denied"}, "cannot be started", "EDGEKIT_ROOT"),
        ({"lacking_tools": ("dd",)}, "no dd", "busybox"),
    ],
)
def test_each_refusal_says_what_there_is_and_what_is_wanted(
    survey, manifest, change, has, wants
) -> None:
    require(manifest, survey, "pi", 10.0)
    with pytest.raises(PreflightError) as caught:
        require(manifest, replace(survey, **change), "pi", 10.0)
    said = f"{caught.value.message} {caught.value.hint}"
    assert "pi cannot run this bundle" in said
    assert "nothing was sent" in said
    assert has in said
    assert wants in said


def test_all_that_is_wrong_is_said_at_once(survey, manifest) -> None:
    with pytest.raises(PreflightError) as caught:
        require(manifest, replace(survey, glibc=(2, 17), noexec="no", free_mb=0.0), "pi", None)
    assert caught.value.message.count("\n") == 3
