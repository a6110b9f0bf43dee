#!/bin/sh
# Puts together what runs on a GPU host without Node: the archive of `node scripts/bundle.mjs --host` and this working tree's nano and suites.
# Usage, anywhere: test/gpu/unpack-host.sh <archive> <new folder>; then <new folder>/kilotoken doctor
set -eu
archive=$(readlink -f "$1")
root=$(dirname "$(dirname "$(dirname "$(readlink -f "$0")")")")
mkdir -p "$2"
if command -v xz >/dev/null; then tar xf "$archive" -C "$2" --strip-components=1
else python3 -c "import lzma, sys; sys.stdout.buffer.write(lzma.open('$archive').read())" | tar xf - -C "$2" --strip-components=1
fi
for part in checkpoints suites schemas docs; do ln -sfn "$root/$part" "$2/$part"; done
"$2/kilotoken" --version
