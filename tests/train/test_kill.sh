#!/bin/bash
# A run killed with SIGKILL at a random instant, and resumed on another number of threads, comes to the bytes of the run
# that was never interrupted.
# Three times with a V1 model and once with V2's recipe (experts, dropping, a batch that grows); twenty times each with
# TEST_LONG=1. A machine may be so fast, or slow,
# that every run was over before its kill: each such kill makes the next come earlier, and rounds go on until one hit.
. "$(dirname "$0")/common.sh"

RANDOM=${TEST_SEED:-$$}
echo '[[1, 2, 3]]' >"$scratch/tokens.json"

# kill_and_resume NAME ROUNDS: of the config tests/train/NAME.json.
kill_and_resume() {
    local name=$1 rounds=$2
    tiny=$(dirname "$tiny")/$name.json
    started=$EPOCHREALTIME
    train "$scratch/reference" --threads 1 --quiet >/dev/null 
    check "$name: the reference run ends" [ $? == 0 ]
    milliseconds=$(((${EPOCHREALTIME/[.,]/} - ${started/[.,]/}) / 1000))

    killed=0
    for ((i = 0; i < rounds || (killed == 0 && i < 20); i++)); do
        run=$scratch/run-$i
        # Two kills, each somewhere in the time that the whole run takes; then to the end.
        for threads in 2 1; do
            start "$run" --resume --threads $threads --quiet
            delay=$((RANDOM % (milliseconds + 1)))
            sleep $((delay / 1000)).$(printf %03d $((delay % 1000)))
            if kill -KILL $pid 2>/dev/null; then killed=$((killed + 1)); else milliseconds=$((milliseconds / 2)); fi
            wait $pid 2>/dev/null
            if [ -e "$run/model/config.json" ]; then
                check "$name, round $i: the exported model opens" "$program" logits "$run/model" \
                    --tokens "$scratch/tokens.json" -o "$scratch/logits.safetensors" --quiet
            fi
        done
        leftovers=$(ls -d "$run"/checkpoints/tmp-* "$run"/model/*.tmp 2>/dev/null | wc -l)
        train "$run" --resume --threads 2 --quiet >"$scratch/out" 2>&1
        status=$?
        check "$name, round $i: the resumed run ends: $(cat "$scratch/out")" [ $status == 0 ]
        check "$name, round $i: byte for byte the uninterrupted run" same "$run" "$scratch/reference"
        check "$name, round $i: nothing is left over" \
            [ -z "$(ls -d "$run"/checkpoints/tmp-* "$run"/model/*.tmp 2>/dev/null)" ]
        echo "$name, round $i: $leftovers leftovers of interrupted writes"
        rm -rf "$run"
    done
    check "$name: at least one process was still running when it was killed" [ $killed -ge 1 ]
    rm -rf "$scratch/reference"
}

kill_and_resume tiny $([[ ${TEST_LONG:-} ]] && echo 20 || echo 3)
kill_and_resume tiny-v2 $([[ ${TEST_LONG:-} ]] && echo 20 || echo 1)
finish
