#!/bin/bash
# make demo: writes a corpus of short stories, trains a tokenizer and a small V1 model on it, and lets the model tell a
# story of its own.
# Takes about three minutes on two cores.
#
#   DEEPSEEK=PATH   the program (default: ./deepseek)
#   RUN=FOLDER      the run's folder (default: runs/demo), made anew each time; the corpus is RUN-stories.jsonl
#
# Asks nothing. Ctrl-C saves the run and says how to go on.
set -u
cd "$(dirname "$0")/.." || exit 1

program=${DEEPSEEK:-./deepseek}
[[ $program == */* ]] || program=./$program
run=${RUN:-runs/demo}
config=configs/demo.json
data=$run-stories.jsonl

# The signal reaches the program too, which saves and ends; the script waits for it and then says how to go on.
interrupted=
trap 'interrupted=yes' INT TERM

say() { printf '\n== %s\n\n' "$*"; }
# Runs the program, showing the command as one would type it.
show() { printf '$ %s' "$program"; printf ' %q' "$@"; printf '\n'; "$program" "$@"; }
stop() {
    [[ $interrupted ]] || { echo "The demo ended early: exit status $1 of the command above." >&2; exit 1; }
    printf '\nInterrupted.'
    [[ -d $run/checkpoints ]] && printf \
        ' The training goes on from where it was with:\n    %s train %s --data %s --out %s --resume' "$program" \
        "$config" "$data" "$run"
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

say "1. Stories to learn from: a corpus that this program writes, and one of them"
mkdir -p "$(dirname "$data")" || exit 1
show data stories --bytes 16M --format jsonl --out "$data" || stop $?
echo
show data stories --count 1 --seed 7 || stop $?

say "2. Training a tokenizer and a model that know nothing, about two and a half minutes on two cores"
show train "$config" --data "$data" --out "$run" || stop $?
# A run that was told to stop has saved and ends well, so ask whether its last step is there.
steps=$(sed -nE 's/^ *"steps": ([0-9]+).*/\1/p' "$config")
[[ -d $run/checkpoints/step-$(printf %08d "$steps") ]] || { interrupted=yes; stop 0; }

say "3. A story by the trained model"
show generate "$run/model" -p 'Once upon a time' -n 400 --temperature 0.5 --echo --quiet || stop $?

say "4. Its loss on stories that it was not trained on"
show eval "$run/model" --data "$data" --held-out 0.02 --quiet || stop $?

say "5. What to try next"
cat <<EOF
# another beginning, three stories at once, more daring (--temperature 0 is the opposite)
$program generate $run/model -p 'Lily had a dog named' --samples 3 --temperature 0.8
# the same training for longer, on other stories as well: sentences get along better with each other
$program data stories --bytes 40M --format jsonl --out runs/more.jsonl
$program train $config --data runs/more.jsonl --out runs/longer --set train.steps=12000
# an ablation: the same run with another learning rate, then compare the two metrics.jsonl
$program train $config --data $data --out runs/slower --set train.optimizer.learning_rate=5e-4
# your own texts: a folder of *.txt and *.jsonl
$program train $config --data FOLDER --out runs/mine
# the experiment of docs/experiments.md, which other programs can be compared with
$program train configs/shakespeare-char.json --data data/tinyshakespeare.txt --out runs/shakespeare
# parameters, FLOPs and memory of the published 67B model
$program info configs/deepseek-llm-67b.json
# prefill and decoding against the limits of this machine
$program bench configs/v1-124m.json --compute bf16
EOF
