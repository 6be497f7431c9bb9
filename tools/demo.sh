#!/bin/bash
# make demo: trains a small V1 model on the plays of Shakespeare and lets it write. Takes one to three minutes on two cores.
#
#   DEEPSEEK=PATH   the program (default: ./deepseek)
#   RUN=FOLDER      the run's folder (default: runs/demo), made anew each time
#
# Asks nothing. Ctrl-C saves the run and says how to go on.
set -u
cd "$(dirname "$0")/.." || exit 1

program=${DEEPSEEK:-./deepseek}
[[ $program == */* ]] || program=./$program
run=${RUN:-runs/demo}
config=configs/demo.json
data=data/tinyshakespeare.txt

# The signal reaches the program too, which saves and ends; the script waits for it and then says how to go on.
interrupted=
trap 'interrupted=yes' INT TERM

say() { printf '\n== %s\n\n' "$*"; }
# Runs the program, showing the command as one would type it.
show() { printf '$ %s' "$program"; printf ' %q' "$@"; printf '\n'; "$program" "$@"; }
stop() {
    [[ $interrupted ]] || { echo "The demo ended early: exit status $1 of the command above." >&2; exit 1; }
    printf '\nInterrupted.'
    [[ -d $run/checkpoints ]] && printf ' The training goes on from where it was with:\n    %s train %s --data %s --out %s --resume' "$program" "$config" "$data" "$run"
    printf '\n'
    exit 130
}

[[ -x $program ]] || { echo "$program: not built yet; run make demo" >&2; exit 1; }
if [[ -e $run ]]; then
    if [[ ! -f $run/lock ]]; then
        echo "$run exists and is not a run of this program; move it away or set RUN=FOLDER" >&2
        exit 1
    fi
    if command -v flock >/dev/null && ! flock -n "$run/lock" true; then
        echo "$run: another process is training in this folder; wait for it or set RUN=FOLDER" >&2
        exit 1
    fi
    echo "Removing $run, the run of an earlier demo."
    rm -rf "$run"
fi

say "1. Training a model that knows nothing on $data, one to three minutes on two cores"
show train "$config" --data "$data" --out "$run" || stop $?
# A run that was told to stop has saved and ends well, so ask whether its last step is there.
steps=$(sed -nE 's/^ *"steps": ([0-9]+).*/\1/p' "$config")
[[ -d $run/checkpoints/step-$(printf %08d "$steps") ]] || { interrupted=yes; stop 0; }

say "2. What the trained model writes"
show generate "$run/model" -p 'ROMEO:' -n 500 --echo --quiet || stop $?

say "3. Its loss on the tenth of the text that it was not trained on"
show eval "$run/model" --data "$data" --held-out 0.1 --context 128 || stop $?

say "4. What to try next"
cat <<EOF
# another text, more daringly (--temperature 0 is the opposite)
$program generate $run/model -p 'JULIET:' -n 300 --temperature 1.1 --seed 7
# parameters, FLOPs and memory of the published 67B model
$program info configs/deepseek-llm-67b.json
# an ablation: the same run with another learning rate, then compare the two metrics.jsonl
$program train $config --data $data --out runs/slower --set train.optimizer.learning_rate=5e-4
# the experiment of docs/experiments.md, which other programs can be compared with
$program train configs/shakespeare-char.json --data $data --out runs/shakespeare
# prefill and decoding against the limits of this machine
$program bench configs/v1-124m.json --compute bf16
EOF
