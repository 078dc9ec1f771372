# The store on a device (docs/devices.md). A POSIX shell with coreutils or busybox is all it needs.
#
#   ROOT/NAME/current -> releases/ID      the stable path; switched by one rename
#   ROOT/NAME/releases/ID/                a bundle's files; equal files of two releases are one,
#                                         by hard links; .files lists them
#   ROOT/NAME/deployed, ROOT/NAME/tried   releases in order, the newest last
#   ROOT/.store/incoming/                 releases that are not whole yet
#   ROOT/.store/lock                      who is changing the store: "PID BOOT"
#
# usage: sh -c THIS edgekit-store VERB ROOT [ARGUMENT...]; what a verb reads from stdin stands at it.
# What a person must be told goes to stderr. Starting a program takes longer on a small device than
# most of them run: what the shell itself can do, it does.

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

# The lines up to "end", into $lines. Without it the client has gone: of half a list comes nothing.
read_lines() {
  lines=
  while read -r line; do
    [ "$line" != end ] || return 0
    lines=$lines$line$LINE
  done
  die "the client's list broke off"
}

# A release's files, "SHA256 MODE PATH SIZE" a line. A manifest's paths hold no character that means
# something to a shell.
read_files() {
  read_lines
  files=$lines
}

# ---- the lock: a link that only one can create, to its holder's name. It needs no room on a full
# disk, and is never there without a name.

clean_up() {
  [ ! -d "${draft:-}" ] || rm -rf "$draft"
  [ -z "${locked:-}" ] || [ "$(readlink "$store/lock")" != "$me" ] || rm -f "$store/lock"
}
trap clean_up EXIT
trap 'exit 1' HUP INT TERM

# A holder is gone if the machine was started anew since, or its process is no edgekit's.
is_stale() { # HOLDER
  [ -n "$1" ] || return 1
  [ "${1#* }" = "$boot" ] || return 0
  case $(tr '\0' ' ' <"/proc/${1%% *}/cmdline" 2>/dev/null) in
    *edgekit-store*) return 1 ;;
  esac
  return 0
}

# By rename: of two that find it stale, one gets it. Whoever took another's fresh lock by mistake
# gives it back, unless there is a third by now.
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

# ---- survey: all that a deployment wants to know, in one round trip ----

survey() { # NAME ID; the release's files on stdin
  read_files
  section uname; uname -s -r -m
  section cpuinfo; lines_of /proc/cpuinfo 'Features*' 'flags*'
  section meminfo; lines_of /proc/meminfo 'MemAvailable:*'
  section glibc; c_library
  section loaders; existing /lib/ld-linux-* /lib64/ld-linux-*
  section libstdcxx; existing /lib/libstdc++.so.6.0.* /usr/lib/libstdc++.so.6.0.* \
    /lib64/libstdc++.so.6.0.* /lib/*/libstdc++.so.6.0.* /usr/lib/*/libstdc++.so.6.0.*
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

lines_of() { # FILE PATTERN [PATTERN]: the first line that fits one
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

refused_write() {
  [ -d "$store/incoming" ] || mkdir -p "$store/incoming" 2>&1 || return
  [ -x "$store/probe" ] || (printf '#!/bin/sh\n' >"$store/probe" && chmod 755 "$store/probe") 2>&1
  (printf '' >>"$store/probe") 2>&1
}

refused_execution() { # -x knows of noexec too; the attempt gives the words for it
  [ ! -f "$store/probe" ] || [ -x "$store/probe" ] || "$store/probe" 2>&1
}

current_of() { # NAME
  [ -L "$root/$1/current" ] || return
  link=$(readlink "$root/$1/current")
  echo "${link##*/}"
}

damaged() { # a release's folder: its files that are not what $files says; "absent" without one
  [ -d "$1" ] || { echo absent; return; }
  wrong_in "$1"
}

# Those of $files that a folder does not have as they should be: all but those found to be right.
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

# Which of $files some release has already: $held has a line "SHA256 WHERE" for each.
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

# ---- install: from what comes in and what is there to a release, and to the current one ----

# On stdin the release's files; the digests of those that follow; and then these, one after the
# other.
install_release() { # NAME ID current|tried
  read_files
  read_lines
  incoming=$lines
  home=$root/$1 release=$root/$1/releases/$2 draft=$store/incoming/$2.$$
  make_draft
  (receive) || die "what was sent cannot be written to $draft"
  bad=$(wrong_in "$draft")
  [ -z "$bad" ] || { section missing; echo "$bad"; exit $EXIT_MISSING; }
  printf '%s' "$files" >"$draft/.files" || die "$draft/.files cannot be written"
  lock
  [ -d "$home/releases" ] || mkdir -p "$home/releases" || die "$home cannot be made"
  flush # before anything leads there: power may go at any moment
  # one that is damaged makes room; its files live on in processes that use them
  trap '' HUP INT TERM
  [ ! -d "$release" ] || mv "$release" "$draft.old" || die "$release cannot be replaced"
  mv "$draft" "$release" || die "$release cannot be made"
  trap 'exit 1' HUP INT TERM
  [ ! -d "$draft.old" ] || rm -rf "$draft.old"
  choose "$1" "$2" "$3"
}

# Makes a release that is there the current one.
adopt() { # NAME ID
  lock
  home=$root/$1
  [ -d "$home/releases/$2" ] || exit $EXIT_MISSING
  choose "$1" "$2" current
}

choose() { # NAME ID current|tried
  if [ "$3" = current ]; then
    # noted first: a switch that breaks off must not be one that nobody knows of
    note "$home/deployed" "$2"
    forget "$home/tried" "$2"
    switch "$1" "$2"
  else
    holds "$home/deployed" "$2" || note "$home/tried" "$2"
  fi
  prune "$1"
  collect
}

make_draft() { # the folders, and of the files those that are here already
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
    # what is gone since the survey, the client is asked for again
    [ "$place" = "$held" ] || same_file "${place%%"$LINE"*}" "$draft/$path"
  done <<END
$files
END
}

same_file() { # FROM TO: a file system without hard links holds copies
  ln "$1" "$2" 2>/dev/null || cp "$1" "$2" 2>/dev/null
}

receive() { # dd takes no byte more than it is told, so that the next one begins where it ended
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
  return 0 # what is not there, or not as it should be, its digest tells
}

find_first() { # DIGEST: the $first of the release's paths that has it, and its $size
  rest=${files#*"$1 "}
  rest=${rest%%"$LINE"*}
  rest=${rest#* }
  size=${rest##* } first=${rest% *}
}

flush() { sync -f "$root" 2>/dev/null || sync; }

switch() { # NAME ID
  [ ! -L "$root/$1/.link.$$" ] || rm -f "$root/$1/.link.$$" # of an earlier process of this number
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

# Keeps the newest releases that were deployed, as many that were only tried, and the current one.
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

newest() { # FILE: its last ids, in one line
  set -- $(without "$1" none)
  while [ $# -gt $KEEP ]; do shift; done
  echo "$*"
}

collect() { # what came from a client that vanished without the device noticing: it was switched off
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
  # what was rolled back from is on the device still, but nothing to roll back to
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
  # by rename first: what is half removed is no deployment any more
  draft=$store/incoming/removed.$$
  mv "$root/$1" "$draft" || die "$root/$1 cannot be removed"
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
  *) case $1 in "" | .* | */*) die "'$1' is no name of a deployment" ;; esac ;;
esac
case $verb in
  survey | install_release | adopt | rollback | list | remove) "$verb" "$@" ;;
  *) die "edgekit-store: unknown verb $verb" ;;
esac
