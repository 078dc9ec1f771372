"""The common part of the scripts that run on a device. POSIX shell (dash, BusyBox's ash).

The scripts write nothing. ``$1`` replaces "/": tests give a recorded tree.
"""

from __future__ import annotations

# The shell's `read` reads small files: starting `cat` is a hundred times slower on a device.
# vcgencmd must not inherit stdin, which carries a watch's ticks.
PRELUDE = r"""
exec 2>/dev/null
cd "${1:-/}" || exit 1
[ "$PWD" = / ] || PATH="$PWD/usr/bin:$PWD/opt/vc/bin:$PATH"
PATH="$PATH:/opt/vc/bin"

set -- sys/devices/system/cpu/cpufreq/policy[0-9]*
[ -d "$1" ] || set -- sys/devices/system/cpu/cpu[0-9]*/cpufreq
policies=$*

zones=
for zone in sys/class/thermal/thermal_zone[0-9]*; do
  kind=; read -r kind <$zone/type
  case $kind in
    *[Cc][Pp][Uu]*|*[Ss][Oo][Cc]*|*core*|*pkg*|*package*) zones="$zones $zone" ;;
  esac
done
zones=${zones:-sys/class/thermal/thermal_zone0}

# each NAME: that file of every policy. temperatures: of the chosen zones. Both set $values.
each() {
  values=
  for policy in $policies; do
    value=; read -r value <$policy/$1; values="$values $value"
  done
}
temperatures() {
  values=
  for zone in $zones; do
    value=; read -r value <$zone/temp; values="$values $value"
  done
}

# The firmware of a Raspberry Pi cuts the clock without informing the kernel. Meanwhile (the last
# digit is not 0) only measure_clock reports the real clock. The kernel's file is the second
# choice: newer kernels log a warning when it is read.
case $(vcgencmd get_throttled </dev/null) in
  throttled=*) vcgencmd=yes ;;
  *) vcgencmd= ;;
esac
firmware() {
  throttled=; clock=
  if [ "$vcgencmd" ]; then
    throttled=$(vcgencmd get_throttled </dev/null)
    case $throttled in
      *0) ;;
      *) clock=$(vcgencmd measure_clock arm </dev/null) ;;
    esac
  else
    for file in sys/devices/platform/soc*/soc*:firmware/get_throttled; do
      read -r throttled <"$file"
    done
  fi
}
"""
