#!/bin/sh
# Reads a handwritten digit, with a process for each image: sh digits.sh FOLDER IMAGE.bin
# IMAGE.bin: 64 little-endian float32 from -1 (paper) to 1 (ink)
set -eu
LC_ALL=C # numbers with a point
export LC_ALL
release=$(readlink -f "$1") # once: a deployment meanwhile changes nothing

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
"$release/runner" --model "$release/model.pte" --warmup 0 --runs 1 \
  --input "$2" --output "$work/scores" >/dev/null

# ten scores; the digit is the place of the largest
od -A n -v -t f4 "$work/scores" | awk '
  BEGIN { n = 0 }
  { for (i = 1; i <= NF; i++) { if (n == 0 || $i > best) { best = $i; digit = n } n++ } }
  END { print digit }'
