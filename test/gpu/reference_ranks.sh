#!/bin/bash
# Two processes on one machine, each one rank on a GPU of its own, as a launcher would start them: they decode the same tokens; a rank that is killed,
# started for another number of ranks, or cannot load NCCL ends both within seconds, in a sentence. Needs two GPUs and NCCL (NCCL_LIBRARY).
# Argument: the folder of reference_parallel (build/gpu). Exit status 0 if all hold, 1 if not.
programs=${1:-build/gpu}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
port=$((20000 + RANDOM % 20000))
failed=0

rank() { # RANK WORLD_SIZE arguments...
  local rank=$1 ranks=$2
  shift 2
  RANK=$rank LOCAL_RANK=$rank WORLD_SIZE=$ranks MASTER_ADDR=127.0.0.1 MASTER_PORT=$port \
    timeout -k 5 90 "$programs/reference_parallel" rank "$@" >"$folder/$rank" 2>&1
}
says() { # WHAT RANK STATUS WANTED-STATUS PATTERN SECONDS LIMIT
  if [ "$3" = "$4" ] && grep -qE "$5" "$folder/$2" && [ "$6" -le "$7" ]; then
    echo "passed: $1, rank $2 ended with $3 after $6 s"
  else
    echo "FAILED: $1, rank $2 ended with $3 after $6 s (wanted $4 within $7 s, saying $5):"
    sed 's/^/  /' "$folder/$2"
    failed=1
  fi
}

rank 1 2 2 16 &
began=$SECONDS
rank 0 2 2 16
zero=$?
wait $!
one=$?
says 'two ranks' 0 $zero 0 'tokens( [0-9]+){16}$' $((SECONDS - began)) 60
says 'two ranks' 1 $one 0 'tokens( [0-9]+){16}$' $((SECONDS - began)) 60
if [ "$(grep -o 'tokens.*' "$folder/0")" != "$(grep -o 'tokens.*' "$folder/1")" ]; then
  echo 'FAILED: two ranks, other tokens on rank 1'
  failed=1
fi

port=$((port + 2))
rank 1 2 2 16 die-at 8 &
began=$SECONDS
rank 0 2 2 16
says 'a killed rank' 0 $? 3 '^error: rank 1 \(pid [0-9]+ on .*\) is gone' $((SECONDS - began)) 30
wait $!

port=$((port + 2))
rank 0 2 2 16 &
sleep 2
began=$SECONDS
rank 1 4 2 16
says 'another number of ranks' 1 $? 3 'was started as one of 4 ranks, rank 0 as one of 2' $((SECONDS - began)) 15
wait $!
says 'another number of ranks' 0 $? 3 'was started as one of 4 ranks, rank 0 as one of 2' $((SECONDS - began)) 15

port=$((port + 2))
began=$SECONDS
NCCL_LIBRARY=$folder/none rank 0 2 2 16
says 'no NCCL' 0 $? 3 '^error: several ranks need NCCL: .*none: cannot open' $((SECONDS - began)) 15
exit $failed
