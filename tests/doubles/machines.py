"""Machines as trees of the files that a probe reads, written by hand in the kernels' formats.

Not recorded on the devices. Each tree has stubs of ``uname``, ``getconf`` and ``python3``, so that
nothing of this host is read. recordings/ holds more, as files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

AVX2 = "fpu sse4_1 avx f16c fma avx2"
V8 = "fp asimd evtstrm crc32 cpuid"
V8_2 = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop "
    "asimddp"
)


@dataclass(frozen=True)
class Machine:
    """``policies``: processors -> governor, then kHz: now, lowest, highest, base (0: no file).

    ``getconf``: name -> answer; None: the device has no getconf. ``python``: of python3, likewise.
    ``files``: path -> content.
    """

    uname: str
    cpuinfo: str
    memory_kb: tuple[int, int, int]
    os_release: str | None = None
    model: str | None = None
    policies: Mapping[str, tuple[str, int, int, int, int]] = field(default_factory=dict)
    zones: Sequence[tuple[str, str]] = ()
    swaps: str | None = ""
    siblings: Sequence[str] = ()
    getconf: Mapping[str, str] | None = None
    python: str | None = None
    loaders: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    def write(self, root: Path) -> Path:
        total, available, swap = self.memory_kb
        files = {
            "proc/cpuinfo": self.cpuinfo,
            "proc/meminfo": f"MemTotal:       {total} kB\nMemAvailable:   {available} kB\n"
            f"SwapTotal:      {swap} kB\nSwapFree:       {swap} kB\n",
            "proc/loadavg": "0.12 0.08 0.05 1/180 2044\n",
            "proc/uptime": "8121.33 30011.02\n",
        }
        if self.swaps is not None:
            header = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
            files["proc/swaps"] = header + self.swaps
        if self.os_release:
            files["etc/os-release"] = f'PRETTY_NAME="{self.os_release}"\nID=linux\n'
        if self.model:
            files["sys/firmware/devicetree/base/model"] = self.model + "\0"
        files |= self._policies() | self._zones() | self.files
        for number, text in enumerate(self.siblings):
            cpu = f"sys/devices/system/cpu/cpu{number}/topology"
            files[f"{cpu}/thread_siblings_list"] = text + "\n"
        for path, text in files.items():
            _put(root / path, text)
        for path, text in (self._programs() | self.loaders).items():
            _put(root / path, f"#!/bin/sh\n{text}\n").chmod(0o755)
        return root

    def _policies(self) -> dict[str, str]:
        names = ("scaling_cur_freq", "cpuinfo_min_freq", "cpuinfo_max_freq", "base_frequency")
        files = {}
        for cpus, (governor, *khz) in self.policies.items():
            folder = f"sys/devices/system/cpu/cpufreq/policy{cpus.split()[0]}"
            files[f"{folder}/related_cpus"] = cpus + "\n"
            files[f"{folder}/scaling_governor"] = governor + "\n"
            files |= {f"{folder}/{n}": f"{v}\n" for n, v in zip(names, khz, strict=True) if v}
            files[f"{folder}/scaling_max_freq"] = f"{khz[2]}\n"
        return files

    def _zones(self) -> dict[str, str]:
        files = {}
        for number, (kind, value) in enumerate(self.zones):
            folder = f"sys/class/thermal/thermal_zone{number}"
            files[f"{folder}/type"] = kind + "\n"
            files[f"{folder}/temp"] = value + "\n"
        return files

    def _programs(self) -> dict[str, str]:
        answers = "".join(f"  {k}) echo '{v}' ;;\n" for k, v in (self.getconf or {}).items())
        missing = (
            "exit 127" if self.getconf is None else f"case $1 in\n{answers}  *) exit 1 ;;\nesac"
        )
        return {"usr/bin/uname": f"echo {self.uname}", "usr/bin/getconf": missing,
                "usr/bin/vcgencmd": "exit 127",
                "usr/bin/python3": f"echo Python {self.python}" if self.python else "exit 127",
        }  # fmt: skip


def _put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def arm(*cores: tuple[int, str, str], implementer: str = "0x41", tail: str = "") -> str:
    """/proc/cpuinfo of an Arm machine: (count, part, features) for each kind of core."""
    parts = [(part, features) for count, part, features in cores for _ in range(count)]
    return tail + "".join(
        f"processor\t: {number}\nBogoMIPS\t: 48.00\nFeatures\t: {features}\n"
        f"CPU implementer\t: {implementer}\nCPU architecture: 8\nCPU variant\t: 0x1\n"
        f"CPU part\t: {part}\nCPU revision\t: 0\n\n"
        for number, (part, features) in enumerate(parts)
    )


def x86(count: int, name: str, flags: str) -> str:
    return "".join(
        f"processor\t: {number}\nvendor_id\t: GenuineIntel\nmodel name\t: {name}\n"
        f"cpu MHz\t\t: 2400.000\nflags\t\t: {flags}\n\n"
        for number in range(count)
    )


def glibc(version: str, bits: int = 64) -> dict[str, str]:
    return {"GNU_LIBC_VERSION": f"glibc {version}", "LONG_BIT": str(bits)}


PI_LOADER = {"lib/ld-linux-aarch64.so.1": "exit 0"}
ZRAM = "/dev/zram0                              partition\t4194300\t\t1024\t\t100\n"

MACHINES = {
    "rpi3bplus": Machine(
        uname="Linux 5.15.84-v8+ aarch64",
        cpuinfo=arm((4, "0xd03", V8)),
        memory_kb=(932524, 700112, 102396),
        os_release="Debian GNU/Linux 11 (bullseye)",
        model="Raspberry Pi 3 Model B Plus Rev 1.3",
        policies={"0 1 2 3": ("ondemand", 600000, 600000, 1400000, 0)},
        zones=[("cpu-thermal", "47236")],
        swaps="/var/swap                               file\t\t102396\t\t0\t\t-2\n",
        getconf=glibc("2.31"),
        python="3.9.2",
        loaders=PI_LOADER,
    ),
    "rpi4_32bit": Machine(  # the 32-bit Raspberry Pi OS on its 64-bit kernel
        uname="Linux 6.1.21-v8+ aarch64",
        cpuinfo=arm((4, "0xd08", V8)),
        memory_kb=(3885396, 3500000, 102396),
        os_release="Raspbian GNU/Linux 11 (bullseye)",
        model="Raspberry Pi 4 Model B Rev 1.5",
        policies={"0 1 2 3": ("ondemand", 1800000, 600000, 1800000, 0)},
        zones=[("cpu-thermal", "51121")],
        getconf=glibc("2.31", bits=32),
        python="3.9.2",
        loaders={"lib/ld-linux-armhf.so.3": "exit 0"},
    ),
    "rk3588": Machine(
        uname="Linux 5.10.160-rockchip-rk3588 aarch64",
        cpuinfo=arm((4, "0xd05", V8_2), (4, "0xd0b", V8_2)),
        memory_kb=(8127620, 7321004, 4063808),
        os_release="Armbian 23.11 jammy",
        model="Orange Pi 5",
        policies={
            "0 1 2 3": ("schedutil", 1008000, 408000, 1800000, 0),
            "4 5": ("schedutil", 1200000, 408000, 2400000, 0),
            "6 7": ("schedutil", 408000, 408000, 2352000, 0),
        },
        zones=[("soc-thermal", "41615"), ("bigcore0-thermal", "42538"), ("npu-thermal", "40692")],
        swaps="/dev/zram0                              partition\t4063808\t\t0\t\t5\n",
        getconf=glibc("2.35"),
        python="3.10.12",
        loaders=PI_LOADER,
    ),
    "rk3399": Machine(
        uname="Linux 6.1.63-current-rockchip64 aarch64",
        cpuinfo=arm((4, "0xd03", V8), (2, "0xd08", V8)),
        memory_kb=(3906140, 3500000, 0),
        os_release="Debian GNU/Linux 12 (bookworm)",
        model="FriendlyElec NanoPC-T4",
        policies={
            "0 1 2 3": ("ondemand", 408000, 408000, 1416000, 0),
            "4 5": ("ondemand", 408000, 408000, 1800000, 0),
        },
        zones=[("cpu-thermal", "38125"), ("gpu-thermal", "37500")],
        getconf=glibc("2.36"),
        python="3.11.2",
        loaders=PI_LOADER,
    ),
    "jetson_orin_nano": Machine(
        uname="Linux 5.15.136-tegra aarch64",
        cpuinfo=arm((6, "0xd42", V8_2)),
        memory_kb=(7802292, 6204108, 3901136),
        os_release="Ubuntu 22.04.4 LTS",
        model="NVIDIA Jetson Orin Nano Developer Kit",
        policies={
            "0 1 2 3": ("schedutil", 729600, 115200, 1510400, 0),
            "4 5": ("schedutil", 729600, 115200, 1510400, 0),
        },
        zones=[("cpu-thermal", "46875"), ("gpu-thermal", "46000"), ("cv0-thermal", "")],
        swaps="".join(f"/dev/zram{n}   partition\t650188\t\t0\t\t5\n" for n in range(6)),
        getconf=glibc("2.35"),
        python="3.10.12",
        loaders=PI_LOADER,
    ),
    "jetson_nano": Machine(
        uname="Linux 4.9.253-tegra aarch64",
        cpuinfo=arm((4, "0xd07", "fp asimd evtstrm aes pmull sha1 sha2 crc32")),
        memory_kb=(4059440, 2814088, 2029712),
        os_release="Ubuntu 18.04.6 LTS",
        model="NVIDIA Jetson Nano Developer Kit",
        policies={"0 1 2 3": ("schedutil", 1479000, 102000, 1479000, 0)},
        zones=[("AO-therm", "41500"), ("CPU-therm", "36500"), ("GPU-therm", "35000")],
        getconf=glibc("2.27"),
        python="3.6.9",
        loaders=PI_LOADER,
    ),
    "intel_hybrid_laptop": Machine(  # 2 performance cores with two threads each, 4 efficient ones
        uname="Linux 6.6.8-200.fc39.x86_64 x86_64",
        cpuinfo=x86(8, "12th Gen Intel(R) Core(TM) i3-1215U", AVX2 + " avx_vnni"),
        memory_kb=(16107868, 9000000, 8388604),
        os_release="Fedora Linux 39 (Workstation Edition)",
        policies={
            "0": ("powersave", 900000, 400000, 4400000, 1200000),
            "1": ("powersave", 900000, 400000, 4300000, 1200000),
            **{str(cpu): ("powersave", 900000, 400000, 4400000, 1200000) for cpu in (2, 3)},
            **{str(cpu): ("powersave", 800000, 400000, 3300000, 900000) for cpu in range(4, 8)},
        },
        zones=[("acpitz", "52000"), ("x86_pkg_temp", "61000"), ("iwlwifi_1", "48000")],
        swaps=ZRAM,
        siblings=["0-1", "0-1", "2-3", "2-3", "4", "5", "6", "7"],
        getconf=glibc("2.38"),
        python="3.12.1",
        loaders={"lib64/ld-linux-x86-64.so.2": "exit 0"},
        files={
            "sys/devices/cpu_core/cpus": "0-3\n",
            "sys/devices/cpu_atom/cpus": "4-7\n",
            "sys/class/dmi/id/sys_vendor": "LENOVO\n",
            "sys/class/dmi/id/product_name": "21BR000BGE\n",
        },
    ),
    "epyc_vm": Machine(
        uname="Linux 6.1.0-18-cloud-amd64 x86_64",
        cpuinfo=x86(4, "AMD EPYC 7763 64-Core Processor", AVX2 + " hypervisor"),
        memory_kb=(16380980, 15000000, 0),
        os_release="Debian GNU/Linux 12 (bookworm)",
        siblings=["0-1", "0-1", "2-3", "2-3"],
        getconf=glibc("2.36"),
        python="3.11.2",
        loaders={"lib64/ld-linux-x86-64.so.2": "exit 0"},
        files={
            "sys/class/dmi/id/sys_vendor": "QEMU\n",
            "sys/devices/system/clocksource/clocksource0/available_clocksource": "kvm-clock tsc\n",
        },
    ),
    "graviton2": Machine(
        uname="Linux 6.1.79-99.167.amzn2023.aarch64 aarch64",
        cpuinfo=arm((2, "0xd0c", V8_2 + " ssbs")),
        memory_kb=(3914540, 3500000, 0),
        os_release="Amazon Linux 2023",
        getconf=glibc("2.34"),
        python="3.9.16",
        loaders=PI_LOADER,
        files={
            "sys/class/dmi/id/sys_vendor": "Amazon EC2\n",
            "sys/class/dmi/id/product_name": "t4g.medium\n",
        },
    ),
    "alpine": Machine(
        uname="Linux 6.6.16-0-lts x86_64",
        cpuinfo=x86(4, "Intel(R) N100", AVX2 + " avx_vnni"),
        memory_kb=(7900000, 7000000, 0),
        os_release="Alpine Linux v3.19",
        getconf={"LONG_BIT": "64"},
        python="3.11.8",
        loaders={"lib/ld-musl-x86_64.so.1": "echo 'musl libc (x86_64)' >&2; exit 1"},
    ),
    "yocto": Machine(  # BusyBox: no getconf, no os-release; the loader knows its version
        uname="Linux 5.15.71-lts-next aarch64",
        cpuinfo=arm((4, "0xd03", V8)),
        memory_kb=(1986040, 1800000, 0),
        model="NXP i.MX8MPlus EVK board",
        policies={"0 1 2 3": ("performance", 1800000, 1200000, 1800000, 0)},
        zones=[("cpu-thermal", "44000"), ("soc-thermal", "45000")],
        swaps=None,
        loaders={
            "lib/ld-linux-aarch64.so.1": "echo 'ld.so (GNU libc) stable release version 2.35.'"
        },
    ),
    "beaglebone": Machine(
        uname="Linux 5.10.168-ti-r72 armv7l",
        cpuinfo="processor\t: 0\nmodel name\t: ARMv7 Processor rev 2 (v7l)\n"
        "Features\t: half thumb fastmult vfp edsp thumbee neon vfpv3 tls vfpd32\n"
        "CPU implementer\t: 0x41\nCPU part\t: 0xc08\n\nHardware\t: Generic AM33XX\n",
        memory_kb=(494608, 400000, 0),
        os_release="Debian GNU/Linux 11 (bullseye)",
        model="TI AM335x BeagleBone Black",
        policies={"0": ("ondemand", 1000000, 300000, 1000000, 0)},
        getconf=glibc("2.31", bits=32),
        python="3.9.2",
        loaders={"lib/ld-linux-armhf.so.3": "exit 0"},
    ),
    "snapdragon_888": Machine(
        uname="Linux 6.5.0-sm8350 aarch64",
        cpuinfo=arm((4, "0xd05", V8_2), (3, "0xd41", V8_2), (1, "0xd44", V8_2)),
        memory_kb=(7700000, 6000000, 4194300),
        os_release="Ubuntu 23.10",
        model="Qualcomm Technologies, Inc. SM8350 HDK",
        policies={
            "0 1 2 3": ("schedutil", 300000, 300000, 1804800, 0),
            "4 5 6": ("schedutil", 710400, 710400, 2419200, 0),
            "7": ("schedutil", 844800, 844800, 2841600, 0),
        },
        swaps=ZRAM,
        getconf=glibc("2.38"),
        python="3.11.6",
        loaders=PI_LOADER,
    ),
    "apple_m1": Machine(
        uname="Linux 6.6.3-asahi aarch64",
        cpuinfo=arm((4, "0x022", V8_2), (4, "0x023", V8_2), implementer="0x61"),
        memory_kb=(7800000, 6000000, 0),
        os_release="Fedora Linux Asahi Remix 39",
        model="Apple MacBook Air (M1, 2020)",
        policies={
            "0 1 2 3": ("schedutil", 600000, 600000, 2064000, 0),
            "4 5 6 7": ("schedutil", 600000, 600000, 3204000, 0),
        },
        getconf=glibc("2.38"),
        python="3.12.2",
        loaders=PI_LOADER,
    ),
    "unknown_core": Machine(
        uname="Linux 7.2.0 aarch64",
        cpuinfo=arm((2, "0xfff", V8_2 + " i8mm bf16 sve sve2")),
        memory_kb=(2000000, 1500000, 0),
        getconf=glibc("2.45"),
        loaders=PI_LOADER,
    ),
}  # fmt: skip
