#!/bin/bash
# Runs the test programs that are built under $BUILD and the test scripts, two at a time, and reports in order:
# one line for a program that passes, the whole output of one that fails, and at the end `N passed, N failed`.
#
#   tests/run.sh [PART]     only those with PART in their path
#
# A program is tests/FOLDER/test_*.c, a cmocka program; a script is an executable tests/FOLDER/test_*.sh or test_*.py
# that ends
# with a line `N passed, N failed` of its own. Scripts find the program in $DEEPSEEK. TEST_LONG=1 asks all of them for
# the whole
# of their sweeps; TEST_ONLY=programs leaves the scripts out.
set -u
cd "$(dirname "$0")/.." || exit 1

export BUILD=${BUILD:-build}
export DEEPSEEK=${DEEPSEEK:-./deepseek}
[[ $DEEPSEEK == /* ]] || DEEPSEEK=$PWD/$DEEPSEEK
export TEST_LONG=${TEST_LONG:-}
part=${1:-}
limit=${TEST_TIMEOUT:-$([[ $TEST_LONG ]] && echo 3600 || echo 300)}   # seconds for one program
jobs=$(nproc 2>/dev/null || echo 2)
((jobs > 2)) && jobs=2

results=$BUILD/tests/results
rm -rf "$results"
mkdir -p "$results" || exit 1
export XDG_CACHE_HOME=$PWD/$results/cache   # tests leave no tokens in the user's cache
[[ $results == /* ]] && XDG_CACHE_HOME=$results/cache
shopt -s nullglob

names=()
sources=(tests/*/test_*.c)
[[ ${TEST_ONLY:-} == programs ]] || sources+=(tests/*/test_*.sh tests/*/test_*.py)
for source in "${sources[@]}"; do
    [[ $source == *"$part"* ]] || continue
    if [[ $source == *.py ]] && ! command -v python3 >/dev/null; then
        echo "skip  ${source#tests/}: there is no python3 here"
        continue
    fi
    names+=("$source")
done

# The result of test number $1 is one file that appears when it is done: exit status and seconds.
run_one() {
    local source=$2 started=$EPOCHREALTIME status
    case $source in
        *.c) timeout -k 10 "$limit" "$BUILD/${source%.c}" ;;
        *.py) timeout -k 10 "$limit" python3 "$source" ;;
        *) timeout -k 10 "$limit" "$source" ;;
    esac </dev/null >"$results/$1.log" 2>&1
    status=$?
    local micros=$((${EPOCHREALTIME/[.,]/} - ${started/[.,]/}))
    printf '%d %d.%02d\n' $status $((micros / 1000000)) $((micros / 10000 % 100)) >"$results/$1.part"
    mv "$results/$1.part" "$results/$1.done"
}

passed=0 failed=0
report_one() {
    local name=${2#tests/} log=$results/$1.log status seconds good bad skipped note=
    read -r status seconds <"$results/$1.done"
    if [[ $2 == *.c ]]; then
        # "[  PASSED  ] 3 test(s)." and "[  FAILED  ] 1 test(s), listed below:", once for each group of tests
        good=$(sed -nE 's/^\[  PASSED  \] (.*: )?([0-9]+) test\(s\).*/\2/p' "$log" | awk '{n += $1} END {print n + 0}')
        bad=$(sed -nE 's/^\[  FAILED  \] (.*: )?([0-9]+) test\(s\).*/\2/p' "$log" | awk '{n += $1} END {print n + 0}')
        skipped=$(sed -nE 's/^\[  SKIPPED \] (.*: )?([0-9]+) test\(s\).*/\2/p' "$log" | awk '{n += $1} END {print n + 0}')
        ((skipped > 0)) && note=", $skipped skipped"
    else
        read -r good bad < <(tail -n 1 "$log" | sed -nE 's/^([0-9]+) passed, ([0-9]+) failed$/\1 \2/p')
        good=${good:-0} bad=${bad:-0}
    fi
    if ((status == 124 || status == 137)); then
        note+=", stopped after $limit s"
        bad=$((bad > 0 ? bad : 1))
    elif ((status != 0 && bad == 0)); then
        note+=", exit status $status"
        bad=1
    elif ((good + bad == 0)); then
        note+=", ran no test"
        bad=1
    fi
    passed=$((passed + good)) failed=$((failed + bad))
    if ((bad > 0)); then
        cat "$log"
        printf 'FAIL  %-44s %4d passed, %d failed%s  %7s s\n' "$name" "$good" "$bad" "$note" "$seconds"
    else
        printf 'ok    %-44s %4d passed%s  %7s s\n' "$name" "$good" "$note" "$seconds"
    fi
}

# Start tests in order, never more than $jobs at once, and report each as soon as all before it are reported.
started=0 reported=0 running=0
while ((reported < ${#names[@]})); do
    while ((running < jobs && started < ${#names[@]})); do
        run_one $started "${names[started]}" &
        started=$((started + 1)) running=$((running + 1))
    done
    wait -n
    running=$((running - 1))
    while ((reported < started)) && [[ -e $results/$reported.done ]]; do
        report_one $reported "${names[reported]}"
        reported=$((reported + 1))
    done
done

echo "$passed passed, $failed failed"
((failed == 0 && passed > 0))
