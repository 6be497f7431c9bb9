#!/bin/sh
# The claim: a folder of random weights larger than the memory that the program may use decodes at 80% or more of the
# tokens/s that the disk's measured reading speed and the bytes per token allow.
#
#   bench/expert_cache.sh [FOLDER]      needs 14 GB of disk; FOLDER (default: in $TMPDIR or /tmp) is written, measured
#   and removed
#
# The shapes of V2-Lite in 12 layers (13.9 GB of bf16 weights) under a limit of 4 GB. The limit is a memory control
# group where one can be made (root, version 1 or 2); elsewhere the cache's size alone bounds it.
set -eu
BUILD=${BUILD:-build}
DEEPSEEK=${DEEPSEEK:-./deepseek}
folder=${1:-${TMPDIR:-/tmp}/deepseek-expert-cache.$$}
limit=4294967296
group=
finish() { rm -rf "$folder"; [ -z "$group" ] || rmdir "$group" 2>/dev/null || :; }
trap finish EXIT
trap 'exit 1' INT TERM

"$BUILD/bench/random_folder" bench/configs/v2-lite-12-layers.json "$folder"
sync
for parent in /sys/fs/cgroup/memory /sys/fs/cgroup; do
    for file in memory.limit_in_bytes memory.max; do
        [ -z "$group" ] || continue
        try=$parent/deepseek-bench-$$
        mkdir "$try" 2>/dev/null || continue
        if [ -w "$try/$file" ] && echo $limit >"$try/$file" 2>/dev/null; then group=$try; else rmdir "$try"; fi
    done
done
if [ -n "$group" ]; then echo "memory limited to $limit bytes by $group"; else echo \
    'no memory control group can be made here: the cache alone is bounded'; fi
for i in 1 2 3; do
    sh -c '[ -z "$1" ] || echo $$ >"$1/cgroup.procs"; exec "$2" bench "$3" --expert-cache 2G --prompt 0 --gen 24 --repeat 1 --quiet' sh "$group" "$DEEPSEEK" "$folder" | tail -n 3
done
