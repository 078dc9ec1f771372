"""A guard on the device that ends programs when the connection is lost.

sshd leaves the programs of a lost connection running. So each connection has one guard: a shell
on the device that waits in ``read``. When the connection ends, its stdin ends. The guard then
ends the programs that edgekit still waited for. It finds them and their children by a variable
in their environment, which is set before they run (start.START). A program that has ended is
removed from the list, so its background processes survive.
"""

from __future__ import annotations

import secrets
import threading
import time
from contextlib import suppress
from itertools import count

from edgekit.device.base import COMMAND_VARIABLE
from edgekit.device.shell.channel import Channel, OpenChannel
from edgekit.errors import DeviceError

# How long the device may take to end a program. The script's own limit is shorter.
END_LIMIT_S = 30.0

# Commands, one per line: `run ID`, `done ID`, `end ID` (answered by `ended ID`).
# POSIX sh only: dash, bash and busybox run it. busybox's grep stops at a zero byte. All processes
# are stopped before any is ended: else a script would continue after its child's end. TERM comes
# first so that traps can clean up, for up to five seconds: on a busy device, removing a folder
# took more than two. Some versions of sleep reject fractions.
SCRIPT = """
exec 2>/dev/null
trap "" PIPE
variable=$1
running=" "
find_all() {
  found=
  entry=
  for line in $(head -c 4000000 /proc/[0-9]*/environ | tr " \\000" "_\\n" |
    grep -e "^==>_/proc/" -e "^$variable=$1[.]$"); do
    case $line in
      "==>_"*) entry=${line#"==>_/proc/"} ;;
      *) found="$found ${entry%%/*}" ;;
    esac
  done
  [ -n "$found" ]
}
ask() {
  find_all "$1" || return
  kill -STOP $found
  kill -TERM $found
  kill -CONT $found
}
finish() {
  tries=0
  while find_all "$1" && [ $tries -lt 50 ]; do
    tries=$((tries + 1))
    sleep 0.1 || { sleep 1; tries=$((tries + 9)); }
  done
  tries=0
  while find_all "$1" && [ $tries -lt 20 ]; do
    kill -STOP $found
    kill -KILL $found
    tries=$((tries + 1))
    [ $tries -lt 4 ] || sleep 1
  done
}
forget() {
  case $running in *" $1 "*) running="${running%%" $1 "*} ${running#*" $1 "}" ;; esac
}
while read -r order id; do
  case $order in
    run) running="$running$id " ;;
    done) forget "$id" ;;
    end) ask "$id"; finish "$id"; forget "$id"; echo "ended $id" ;;
  esac
done
trap "" TERM
[ "$running" != " " ] || exit 0
for id in $running; do ask "$id"; done
for id in $running; do finish "$id"; done
"""


class Guard:
    """The guard of one connection. Raises DeviceError if it cannot be started."""

    def __init__(self, open_channel: OpenChannel) -> None:
        self._open_channel = open_channel
        self._token = secrets.token_hex(8)
        self._numbers = count(1)
        self._lock = threading.Lock()
        self._channel = self._start()

    def begin(self) -> str:
        """Register a program. Returns its id, for ``environment``, ``done`` and ``end``."""
        name = f"{self._token}-{next(self._numbers)}"
        self._send_command(f"run {name}")
        return name

    @staticmethod
    def environment(name: str) -> list[str]:
        """The variable by which the guard finds the program."""
        return [f"{COMMAND_VARIABLE}={name}."]

    def done(self, name: str) -> None:
        """Unregister a program that has ended by itself."""
        with suppress(DeviceError, OSError):
            self._send_command(f"done {name}")

    def end(self, name: str) -> None:
        """End a started program and its children; return once they have ended.

        If the connection is lost, the guard does this by itself.
        """
        with suppress(DeviceError, OSError):
            self._send_command(f"end {name}", answer=f"ended {name}\n".encode())

    def close(self) -> None:
        """Close the guard's stdin: it ends all registered programs, then itself."""
        self._channel.close()

    def _start(self) -> Channel:
        argv = ["sh", "-c", SCRIPT, "edgekit-guard", COMMAND_VARIABLE]
        channel = self._open_channel(argv)
        channel.await_start()
        return channel

    def _send_command(self, text: str, answer: bytes = b"") -> None:
        with self._lock:
            try:
                self._channel.send(text.encode() + b"\n")
            except BrokenPipeError:  # the guard was killed: start another
                self._channel = self._start()
                self._channel.send(text.encode() + b"\n")
            deadline = time.monotonic() + END_LIMIT_S
            received = b""
            while not received.endswith(answer):
                data = self._channel.receive(4096, deadline)
                if not data:
                    return
                received += data
