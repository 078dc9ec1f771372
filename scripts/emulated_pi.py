#!/usr/bin/env python3
"""An emulated Raspberry Pi with an SSH address, for who has none. Standard library only.

python3 scripts/emulated_pi.py build           make the image that all machines start from
python3 scripts/emulated_pi.py boot pi4        start one; prints how to reach it
python3 scripts/emulated_pi.py status          which machines there are
python3 scripts/emulated_pi.py stop            end it; what was stored on it is gone

docs/emulated-pi.md says what is real about it.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pi_emulator.access import UserConfig
from pi_emulator.common import TO_BOOT, TO_BUILD, PiError, default_folder, require, say
from pi_emulator.image import build_image, find_image
from pi_emulator.machine import (
    BOARDS,
    CORES,
    Machine,
    boot_machine,
    find_machine,
    list_machines,
    machines_folder,
    stop_machine,
)


def main() -> int:
    options = parse()
    os.umask(0o022)  # the guest's users read the image's files, and ssh its configuration
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what is half-made goes
    try:
        options.call(options)
    except PiError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing is left behind", file=sys.stderr)
        return 130
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="emulated_pi.py", description=(__doc__ or "").splitlines()[0]
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(call: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(call.__name__.replace("_", "-"), help=text, description=text)
        added.set_defaults(call=call)
        place = "where images and machines are kept (default: %(default)s)"
        added.add_argument("--folder", type=Path, default=default_folder(), help=place)
        return added

    building = command(build, "make the image that all machines start from")
    booting = command(boot, "start a machine and say how to reach it")
    for added in (building, booting):
        added.add_argument("--mirror", metavar="URL", help="a Debian mirror (default: apt's own)")
    booting.add_argument("model", nargs="?", choices=BOARDS, default="pi4")
    booting.add_argument("--name", help="what it is called (default: emulated-MODEL)")
    booting.add_argument("--port", type=int, help="on 127.0.0.1 (default: any free one)")
    booting.add_argument("--memory-mb", type=int, help="default: that of the smallest board sold")
    booting.add_argument("--lifetime-s", type=int, help="it ends by itself after so many seconds")
    booting.add_argument("--install", action="store_true", help="add it to ~/.ssh/config")
    stopping = command(stop, "end machines and remove what belongs to them")
    stopping.add_argument("name", nargs="?", help="may be left out where there is one only")
    stopping.add_argument("--all", action="store_true", help="all of them")
    command(status, "which machines there are")
    command(uninstall, "take the line of boot --install out of ~/.ssh/config")
    return parser.parse_args()


def build(options: argparse.Namespace) -> None:
    image = build_image(options.folder.absolute(), options.mirror)
    say(f"the image is {image.folder}")


def boot(options: argparse.Namespace) -> None:
    folder, name = options.folder.absolute(), options.name or f"emulated-{options.model}"
    bits = BOARDS[options.model].bits
    if find_image(folder, bits) is None:
        require((*TO_BUILD, *TO_BOOT))  # all that is missing at once
    image = build_image(folder, options.mirror, bits)
    start = time.monotonic()
    machine = boot_machine(
        folder,
        image,
        options.model,
        name,
        port=options.port,
        memory_mb=options.memory_mb,
        lifetime_s=options.lifetime_s,
    )
    user = UserConfig(machines_folder(folder))
    if options.install:
        user.install()
    describe(machine, user, time.monotonic() - start)


def describe(machine: Machine, user: UserConfig, seconds: float) -> None:
    say(
        f"{machine.name} is up: {CORES} cores, {machine.memory_mb} MB, "
        f"127.0.0.1 port {machine.port}, after {seconds:.1f} s"
    )
    if user.is_installed():
        say(f"  log in:          ssh {machine.name}")
    else:
        say(f"  log in:          ssh -F {shlex.quote(str(machine.ssh_config))} {machine.name}")
        say(f"  for edgekit:     put this line at the top of {user.path}, or boot with --install")
        say(f"    {user.line}")
    bundle = f"build/digits-{BOARDS[machine.model].target}"
    say(f"  then, say:       edgekit bench {bundle} {machine.name}")
    folder = machine.folder.parent.parent
    place = "" if folder == default_folder() else f"--folder {shlex.quote(str(folder))} "
    say(f"  end it:          python3 scripts/emulated_pi.py stop {place}{machine.name}")


def stop(options: argparse.Namespace) -> None:
    folder = options.folder.absolute()
    machines = list_machines(folder)
    if options.name:
        found = find_machine(machines_folder(folder) / options.name)
        if found is None:
            names = ", ".join(machine.name for machine in machines) or "none"
            raise PiError(f"there is no machine called {options.name}", f"there are: {names}")
        machines = [found]
    elif len(machines) > 1 and not options.all:
        names = ", ".join(machine.name for machine in machines)
        raise PiError(f"there are several machines: {names}", "name one, or say --all")
    for machine in machines:
        stop_machine(machine)
        say(f"{machine.name} has ended")
    if not machines:
        say("no machine was running")


def status(options: argparse.Namespace) -> None:
    machines = list_machines(options.folder.absolute())
    for machine in machines:
        say(
            f"{machine.name:20} {machine.model:8} {machine.state():8} "
            f"127.0.0.1:{machine.port:<6} {machine.memory_mb:5} MB  {machine.ssh_config}"
        )
    if not machines:
        say("no machine")


def uninstall(options: argparse.Namespace) -> None:
    user = UserConfig(machines_folder(options.folder.absolute()))
    if user.uninstall():
        say(f"taken out of {user.path}: {user.line}")
    else:
        say(f"{user.path} does not have it: {user.line}")


if __name__ == "__main__":
    sys.exit(main())
