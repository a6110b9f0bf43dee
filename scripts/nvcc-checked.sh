#!/bin/sh
# Runs the CUDA compiler (its whole command line follows) and fails where ptxas only warns: registers spilled to memory, and the C75xx
# warnings, with which it says that it serialised tensor core instructions. Needs -Xptxas=-v on the command line.
output=$("$@" 2>&1)
status=$?
printf '%s\n' "$output" | grep -v -e '^ptxas info' -e '^$' -e ' 0 bytes spill stores, 0 bytes spill loads'
if [ "$status" -ne 0 ]; then exit "$status"; fi
if printf '%s\n' "$output" | grep -q -E '[1-9][0-9]* bytes spill|C75[0-9][0-9]'; then
  printf '%s\n' "$output" | grep -E -B 2 '[1-9][0-9]* bytes spill|C75[0-9][0-9]'
  echo 'error: ptxas spills registers or serialises tensor core instructions (see above)'
  exit 1
fi
