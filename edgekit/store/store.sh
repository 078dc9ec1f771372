# The store on a device (docs/devices.md). It needs only a POSIX shell with coreutils or busybox.
#
#   ROOT/NAME/current -> releases/ID      the stable path; switched by one rename
#   ROOT/NAME/releases/ID/                a bundle's files, listed in .files; releases share equal
#                                         files by hard links
#   ROOT/NAME/deployed, ROOT/NAME/tried   releases in order, the newest last
#   ROOT/.store/incoming/                 incomplete releases
#   ROOT/.store/lock                      the process that changes the store: "PID BOOT"
#
# usage: sh -c THIS edgekit-store VERB ROOT [ARGUMENT...]; comments at the verbs describe stdin.
# Messages for the user go to stderr. On a small device, starting a program takes longer than most
# programs run, so the script uses the shell's own commands where it can.

KEEP=3
WAIT_S=30
EXIT_BUSY=75
EXIT_MISSING=74
EXIT_NOT_THERE=73
LINE='
'

die() {
  echo "$1" >&2
  exit "${2:-1}"
}

section() { printf '\n@@edgekit %s\n' "$1"; }

boot=unknown
read -r boot 2>/dev/null </proc/sys/kernel/random/boot_id

# The lines up to "end", into $lines. A list without "end" is incomplete: the client has ended.
read_lines() {
  lines=
  while read -r line; do
    [ "$line" != end ] || return 0
    lines=$lines$line$LINE
  done
  die "the client's list is incomplete"
}

# A release's files, one "SHA256 MODE PATH SIZE" per line. A manifest's paths contain no special
# characters of the shell.
read_files() {
  read_lines
  files=$lines
}

# ---- the lock: a symbolic link whose target names its holder. Only one process can create it. It
# needs no space on a full disk, and always has a holder's name.

# A lost connection brings several signals; a second one must not end the cleaning up.
clean_up() {
  trap '' HUP INT TERM
  [ ! -d "${draft:-}" ] || rm -rf "$draft"
  [ -z "${locked:-}" ] || [ "$(readlink "$store/lock")" != "$me" ] || rm -f "$store/lock"
}
end_by_signal() {
  trap '' HUP INT TERM
  exit 1
}
trap clean_up EXIT
trap end_by_signal HUP INT TERM

# A holder has ended if the device has rebooted since, or its process is not edgekit's.
is_stale() { # HOLDER
  [ -n "$1" ] || return 1
  [ "${1#* }" = "$boot" ] || return 0
  case $(tr '\0' ' ' <"/proc/${1%% *}/cmdline" 2>/dev/null) in
    *edgekit-store*) return 1 ;;
  esac
  return 0
}

# By rename: if two processes find a stale lock, only one gets it. A process that took a new lock by
# mistake restores it, unless a third process has the lock by now.
break_lock() { # HOLDER
  mv "$store/lock" "$store/lock.$$" 2>/dev/null || return
  taken=$(readlink "$store/lock.$$")
  [ "$taken" = "$1" ] || ln -s "$taken" "$store/lock" 2>/dev/null
  rm -f "$store/lock.$$"
}

lock() {
  waited=0 nobody=0 me="$$ $boot"
  [ -d "$store/incoming" ] || mkdir -p "$store/incoming" || die "$store cannot be made"
  until problem=$(ln -s "$me" "$store/lock" 2>&1); do
    holder=$(readlink "$store/lock")
    [ -n "$holder" ] && nobody=0 || nobody=$((nobody + 1))
    [ "$nobody" -lt 3 ] || die "$problem"
    [ "$waited" -lt "$WAIT_S" ] || die "another edgekit has been changing it for $WAIT_S s" $EXIT_BUSY
    waited=$((waited + 1))
    if is_stale "$holder"; then break_lock "$holder"; else sleep 1; fi
  done
  locked=yes
}

# ---- survey: all that a deployment needs to know, in one round trip ----

survey() { # NAME ID [python]; the release's files on stdin
  read_files
  section uname; uname -s -r -m
  section cpuinfo; lines_of /proc/cpuinfo 'Features*' 'flags*'
  section meminfo; lines_of /proc/meminfo 'MemAvailable:*'
  section glibc; c_library
  section loaders; existing /lib/ld-linux-* /lib64/ld-linux-*
  section libstdcxx; existing /lib/libstdc++.so.6.0.* /usr/lib/libstdc++.so.6.0.* \
    /lib64/libstdc++.so.6.0.* /lib/*/libstdc++.so.6.0.* /usr/lib/*/libstdc++.so.6.0.*
  section python; [ -z "${3:-}" ] || python_facts
  section root; echo "$root"
  section tools
  for tool in cat chmod cp dd df ln mkdir mktemp mv readlink rm sha256sum sleep sync tr uname; do
    command -v $tool >/dev/null && echo $tool
  done
  section unwritable; refused_write
  section noexec; refused_execution
  section free_kb; [ ! -d "$root" ] || df -Pk "$root"
  section current; current_of "$1"
  section damaged; damaged "$root/$1/releases/$2"
  section held; find_held; printf '%s' "$held"
}

lines_of() { # FILE PATTERN [PATTERN]: the first line that matches one
  while read -r line; do
    case $line in
      $2 | ${3:-$2}) echo "$line"; return ;;
    esac
  done 2>/dev/null <"$1"
}

existing() { for file in "$@"; do [ ! -e "$file" ] || echo "$file"; done; }

c_library() {
  getconf GNU_LIBC_VERSION 2>/dev/null && return
  existing /lib/ld-musl-* /lib/libc-2.*.so /lib64/libc-2.*.so /lib/*/libc-2.*.so
  for loader in /lib/ld-linux-*.so.? /lib64/ld-linux-*.so.?; do
    [ ! -x "$loader" ] || "$loader" --version 2>/dev/null | head -n 1
  done
}

python_facts() { # for a runner in Python; what imports NumPy takes a second on a small device
  command -v python3 >/dev/null || return
  python3 -c '
import sys
sys.path = [folder for folder in sys.path if folder]
import importlib.util, struct
print("version", "%d.%d" % sys.version_info[:2])
print("bits", 8 * struct.calcsize("P"))
print("tflite", importlib.util.find_spec("tflite_runtime.interpreter") is not None if
      importlib.util.find_spec("tflite_runtime") else False)
try:
    from numpy import __version__
    print("numpy", __version__)
except Exception as error:
    print("no_numpy", str(error).strip().split("\n")[0])
' 2>/dev/null
}

refused_write() {
  [ -d "$store/incoming" ] || mkdir -p "$store/incoming" 2>&1 || return
  [ -x "$store/probe" ] || (printf '#!/bin/sh\n' >"$store/probe" && chmod 755 "$store/probe") 2>&1
  (printf '' >>"$store/probe") 2>&1
}

refused_execution() { # -x detects noexec; running the probe gives the message
  [ ! -f "$store/probe" ] || [ -x "$store/probe" ] || "$store/probe" 2>&1
}

current_of() { # NAME
  [ -L "$root/$1/current" ] || return
  link=$(readlink "$root/$1/current")
  echo "${link##*/}"
}

damaged() { # FOLDER of a release: its files that differ from $files; "absent" without a folder
  [ -d "$1" ] || { echo absent; return; }
  wrong_in "$1"
}

# Those of $files that are missing or wrong in a folder: all but those whose digest is right.
wrong_in() { # FOLDER
  right=$(echo "$files" | while read -r digest _ path _; do
    [ -z "$digest" ] || echo "$digest  $path"
  done | (cd "$1" && sha256sum -c 2>/dev/null) | while read -r line; do
    case $line in *": OK") echo "${line%": OK"}" ;; esac
  done)
  echo "$files" | while read -r digest _ path _; do
    [ -n "$digest" ] || continue
    case $LINE$right$LINE in *"$LINE$path$LINE"*) ;; *) echo "$path" ;; esac
  done
}

# Which of $files some release already has: $held has a line "SHA256 WHERE" for each.
find_held() {
  held=
  for index in "$root"/*/releases/*/.files; do
    [ -f "$index" ] || continue
    while read -r digest _ path _; do
      case $files in *"$digest"*) ;; *) continue ;; esac
      case $held in *"$digest"*) continue ;; esac
      [ ! -f "${index%/.files}/$path" ] || held="$held$digest ${index%/.files}/$path$LINE"
    done <"$index"
  done
}

# ---- install: a release from files on stdin and files in the store ----

# stdin: the list of the release's files; the digests of those that are sent; their contents.
install_release() { # NAME ID current|tried
  read_files
  read_lines
  incoming=$lines
  home=$root/$1 release=$root/$1/releases/$2 draft=$store/incoming/$2.$$
  make_draft
  (receive) || die "the files sent cannot be written to $draft"
  bad=$(wrong_in "$draft")
  [ -z "$bad" ] || { section missing; echo "$bad"; exit $EXIT_MISSING; }
  printf '%s' "$files" >"$draft/.files" || die "$draft/.files cannot be written"
  lock
  [ -d "$home/releases" ] || mkdir -p "$home/releases" || die "$home cannot be made"
  flush # before the switch: power may fail at any moment
  # a damaged release is moved away; processes that use its files can go on
  trap '' HUP INT TERM
  [ ! -d "$release" ] || mv "$release" "$draft.old" || die "$release cannot be replaced"
  mv "$draft" "$release" || die "$release cannot be made"
  trap end_by_signal HUP INT TERM
  [ ! -d "$draft.old" ] || rm -rf "$draft.old"
  choose "$1" "$2" "$3"
}

# Makes an installed release the current one.
adopt() { # NAME ID
  lock
  home=$root/$1
  [ -d "$home/releases/$2" ] || exit $EXIT_MISSING
  choose "$1" "$2" current
}

choose() { # NAME ID current|tried
  if [ "$3" = current ]; then
    # noted first: an interrupted switch must be on record
    note "$home/deployed" "$2"
    forget "$home/tried" "$2"
    switch "$1" "$2"
  else
    holds "$home/deployed" "$2" || note "$home/tried" "$2"
  fi
  prune "$1"
  collect
}

make_draft() { # the folders, and the files that the store already has
  folders=$draft executable=
  find_held
  while read -r _ mode path _; do
    case $path in */*) folders=$folders$LINE$draft/${path%/*} ;; esac
    [ "$mode" != 755 ] || executable="$executable $path"
  done <<END
$files
END
  (IFS=$LINE && set -f && mkdir -p $folders) || die "$draft cannot be made"
  while read -r digest _ path _; do
    case $incoming in *"$digest"*) continue ;; esac
    place=${held#*"$digest "}
    # if a file was removed since the survey, the client is asked for it again
    [ "$place" = "$held" ] || same_file "${place%%"$LINE"*}" "$draft/$path"
  done <<END
$files
END
}

same_file() { # FROM TO: a hard link, or a copy if the file system has none
  ln "$1" "$2" 2>/dev/null || cp "$1" "$2" 2>/dev/null
}

receive() { # dd reads exactly $size bytes, so that the next file begins where this one ended
  cd "$draft" || return 1
  for digest in $incoming; do
    find_first "$digest"
    if [ "$size" = 0 ]; then
      : >"$first"
    else
      dd bs=65536 count="$size" iflag=count_bytes,fullblock status=none of="$first" || return 1
    fi
  done
  while read -r digest _ path _; do # equal files of one release are sent once
    [ -z "$path" ] || [ -f "$path" ] && continue
    find_first "$digest"
    [ ! -f "$first" ] || same_file "$first" "$path"
  done <<END
$files
END
  [ -z "$executable" ] || chmod 755 $executable 2>/dev/null
  return 0 # the digests show which files are missing or wrong
}

find_first() { # DIGEST: sets $first, the first path with that digest, and its $size
  rest=${files#*"$1 "}
  rest=${rest%%"$LINE"*}
  rest=${rest#* }
  size=${rest##* } first=${rest% *}
}

flush() { sync -f "$root" 2>/dev/null || sync; }

switch() { # NAME ID
  [ ! -L "$root/$1/.link.$$" ] || rm -f "$root/$1/.link.$$" # of an earlier process with this id
  ln -s "releases/$2" "$root/$1/.link.$$" && mv -T "$root/$1/.link.$$" "$root/$1/current" ||
    die "$root/$1/current cannot be switched"
  flush
}

# ---- the order of releases: a file of ids, the newest last ----

holds() { # FILE ID
  while read -r id; do [ "$id" = "$2" ] && return 0; done 2>/dev/null <"$1"
  return 1
}

without() { # FILE ID
  [ ! -f "$1" ] || while read -r id; do [ "$id" = "$2" ] || echo "$id"; done <"$1"
}

note() { # FILE ID: as the newest
  { without "$1" "$2" && echo "$2"; } >"$1.part" && mv -f "$1.part" "$1"
}

forget() { # FILE ID
  holds "$1" "$2" || return 0
  without "$1" "$2" >"$1.part" && mv -f "$1.part" "$1"
}

# Keeps the $KEEP newest deployed releases, the $KEEP newest tried ones, and the current one.
prune() { # NAME
  current=$(current_of "$1")
  kept=" $current $(newest "$home/deployed") $(newest "$home/tried") "
  for old in "$home"/releases/*; do
    case $kept in
      *" ${old##*/} "*) ;;
      *)
        forget "$home/deployed" "${old##*/}"
        forget "$home/tried" "${old##*/}"
        rm -rf "$old"
        ;;
    esac
  done
}

newest() { # FILE: its last $KEEP ids, in one line
  set -- $(without "$1" none)
  while [ $# -gt $KEEP ]; do shift; done
  echo "$*"
}

collect() { # removes incomplete releases whose process has ended, as after a power failure
  for upload in "$store"/incoming/*; do
    [ ! -d "$upload" ] || [ -d "/proc/${upload##*.}" ] || rm -rf "$upload"
  done
}

# ---- the other verbs ----

rollback() { # NAME
  [ -d "$root/$1" ] || die "there is no $1" $EXIT_NOT_THERE
  lock
  home=$root/$1 current=$(current_of "$1") earlier= kept=
  while read -r id && [ "$id" != "$current" ]; do
    [ ! -d "$home/releases/$id" ] || earlier=$id kept=$kept$id$LINE
  done 2>/dev/null <"$home/deployed"
  [ -n "$earlier" ] || die "$1 has no release before the current one ($current)" $EXIT_NOT_THERE
  switch "$1" "$earlier"
  # the release before the rollback stays on the device, but not as a target of a rollback
  printf '%s' "$kept" >"$home/deployed.part" && mv -f "$home/deployed.part" "$home/deployed"
  [ -z "$current" ] || note "$home/tried" "$current"
  section switched
  echo "${current:--}"
  echo "$earlier"
}

list() {
  section root; echo "$root"
  for release in "$root"/*/releases/*; do
    [ -d "$release" ] || continue
    home=${release%/releases/*}
    section release
    echo "${home##*/}"
    echo "${release##*/}"
    [ "$(current_of "${home##*/}")" = "${release##*/}" ] && echo current || echo -
    cat "$release/manifest.json" 2>/dev/null || echo
  done
}

remove() { # NAME
  [ -d "$root/$1" ] || die "there is no $1" $EXIT_NOT_THERE
  lock
  # by rename first: a partly removed folder must not be a deployment
  draft=$store/incoming/removed.$$
  mv "$root/$1" "$draft" || die "$root/$1 cannot be removed"
}

# A release that was only tried; what is current or was deployed before stays.
discard() { # NAME ID
  case $2 in "" | .* | */*) die "'$2' is not a valid id of a release" ;; esac
  lock
  home=$root/$1
  [ -d "$home/releases/$2" ] || return 0
  [ "$(current_of "$1")" != "$2" ] && ! holds "$home/deployed" "$2" || return 0
  draft=$store/incoming/removed.$$
  mv "$home/releases/$2" "$draft" || die "$home/releases/$2 cannot be removed"
  forget "$home/tried" "$2"
}

verb=$1 root=$2
shift 2
case $root in
  "~") root=$HOME ;;
  "~/"*) root=$HOME/${root#"~/"} ;;
esac
store=$root/.store
umask 022
case $verb in
  list) ;;
  *) case $1 in "" | .* | */*) die "'$1' is not a valid name of a deployment" ;; esac ;;
esac
case $verb in
  survey | install_release | adopt | rollback | list | remove | discard) "$verb" "$@" ;;
  *) die "edgekit-store: unknown verb $verb" ;;
esac
