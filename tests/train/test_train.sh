#!/bin/bash
# deepseek train from outside: interruption, resumption, refusals, failing disks, what a run leaves behind.
. "$(dirname "$0")/common.sh"

started=$EPOCHREALTIME
train "$scratch/reference" --threads 2 >"$scratch/out" 2>"$scratch/messages"
check "the run ends" [ $? == 0 ]
milliseconds=$(((${EPOCHREALTIME/[.,]/} - ${started/[.,]/}) / 1000))
check "standard output ends with the result" grep \
    -q "^step 40, held-out loss [0-9.]*, model in $scratch/reference/model$" "$scratch/out"
check "the curve is drawn" grep -q "loss by step: \* training, o held out" "$scratch/out"
check "the model folder is complete" [ "$(ls "$scratch/reference/model" | tr '\n' ' ')" \
    == "config.json generation_config.json model.safetensors tokenizer.json tokenizer_config.json " ]
check "two checkpoints are kept" [ "$(ls "$scratch/reference/checkpoints" | tr '\n' ' ')" \
    == "step-00000036 step-00000040 " ]
# 40, 5 (8, 16, ..., 40), 4 (0, 15, 30, 40)
check "every step, evaluation and sample is logged" [ "$(wc -l <"$scratch/reference/metrics.jsonl")" == 49 ]
check "a sample comes before the first step, once" \
    [ "$(grep -c '^{"step": 0, "sample": "' "$scratch/reference/metrics.jsonl") $(head -n 1 "$scratch/reference/metrics.jsonl" | cut -c 1-22)" == '1 {"step": 0, "sample": ' ]
check "the loss falls" awk -F'[:,]' \
    '$3 ~ /"loss"/ { if (!first) first = $4; last = $4 } END { exit !(last < 0.75 * first) }' \
    "$scratch/reference/metrics.jsonl"
check "metrics.jsonl holds no time" bash -c "! grep -q second '$scratch/reference/metrics.jsonl'"
check "exported bytes name no path" bash -c "! grep -rq '$scratch' '$scratch/reference/model'"

# The same command gives the same bytes; a finished run resumes to itself.
train "$scratch/again" --threads 1 --quiet >/dev/null 2>&1
check "one thread and two give the same bytes" same "$scratch/again" "$scratch/reference"
check "resuming a finished run succeeds" train "$scratch/again" --resume --quiet >/dev/null
check "and prints the held-out loss it ended with" \
    [ "$(train "$scratch/again" --resume --quiet 2>&1 | sed 's/, model.*//')" \
    == "$(tail -n 1 "$scratch/out" | sed 's/, model.*//')" ]
check "and changes nothing" same "$scratch/again" "$scratch/reference"
rm -rf "$scratch/again/model"
train "$scratch/again" --resume --quiet >/dev/null 2>&1
check "a lost export comes back" same "$scratch/again" "$scratch/reference"

# SIGTERM, SIGINT and SIGHUP save and end with success, and the run goes on from there. Before there is anything to save
# they leave nothing and end with 1.
for signal in TERM INT HUP; do
    rm -rf "$scratch/stopped"
    start "$scratch/stopped" --quiet
    for ((i = 0; i < 6000; i++)); do [ -e "$scratch/stopped/lock" ] && break; sleep 0.01; done
    delay=$((RANDOM % milliseconds))
    sleep $((delay / 1000)).$(printf %03d $((delay % 1000)))
    kill -$signal $pid 2>/dev/null
    wait $pid
    status=$?
    check "SIG$signal after $delay ms: exit $status" [ $status == $([ -e "$scratch/stopped" ]; echo $?) ]
    check "SIG$signal after $delay ms: the resumed run ends" train "$scratch/stopped" --resume --threads 1 \
        --quiet >/dev/null
    check "SIG$signal after $delay ms: byte for byte the uninterrupted run" same "$scratch/stopped" "$scratch/reference"
done

# Refusals of the run's folder.
refuses "an existing run" 1 "exists and is not empty; continue that run with --resume" train "$scratch/reference"
start "$scratch/locked" --quiet --set train.steps=100000
for ((i = 0; i < 600; i++)); do [ -s "$scratch/locked/metrics.jsonl" ] && break; sleep 0.1; done
refuses "a second process" 1 "another process is training in this folder" train "$scratch/locked" --resume
kill -KILL $pid
wait $pid 2>/dev/null
refuses "a changed config" 1 "the run was begun with train.seed = 7, the config now says 8" train "$scratch/reference" \
    --resume --set train.seed=8
refuses "a changed model" 1 "the run was begun with hidden_size = 32, the config now says 64" train \
    "$scratch/reference" --resume --set hidden_size=64
refuses "fewer steps" 1 "the run has made 40 steps, train.steps is 30" train "$scratch/reference" \
    --resume --set train.steps=30
sed 's/cat/rat/' "$scratch/text.txt" >"$scratch/other.txt"
sed 's/cat/wxyz/' "$scratch/text.txt" >"$scratch/letters.txt"
refuses "data of other characters" 1 "letters.txt: the data is not the data that the run was begun with" "$program" \
    train "$tiny" --data "$scratch/letters.txt" --out "$scratch/reference" --resume
refuses "changed data" 1 "the data is not the data that the run was begun with" "$program" train "$tiny" \
    --data "$scratch/other.txt" --out "$scratch/reference" --resume
if [ "$(id -u)" == 0 ]; then readonly=/proc; else readonly=$scratch/readonly; mkdir "$readonly"; chmod 555 \
    "$readonly"; fi
refuses "a read-only folder" 1 "cannot create folder $readonly/run" train "$readonly/run"
# What a folder forbids, it forbids to root as another user. That user gets copies, because it may not reach the
# checkout.
as_nobody() { setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; }
theirs=$scratch/for_nobody
mkdir "$theirs" && cp "$program" "$theirs/deepseek" && cp "$tiny" "$theirs/tiny.json" && chmod -R a+rX "$theirs" \
    "$scratch/text.txt" && chmod 755 "$scratch"
if [ "$(id -u)" == 0 ] && as_nobody "$theirs/deepseek" --version >/dev/null 2>&1; then
    cp -r "$scratch/reference" "$scratch/foreign_run"
    refuses "a folder of another user" 1 "cannot create folder $scratch/theirs: Permission denied" as_nobody \
        "$theirs/deepseek" train "$theirs/tiny.json" --data "$scratch/text.txt" --out "$scratch/theirs"
    refuses "the run of another user" 1 "cannot open $scratch/foreign_run/lock: Permission denied" as_nobody \
        "$theirs/deepseek" train "$theirs/tiny.json" --data "$scratch/text.txt" --out "$scratch/foreign_run" --resume
    check "and leaves it as it was" diff -r "$scratch/foreign_run" "$scratch/reference"
fi
cp -r "$scratch/reference/model" "$scratch/somebody"
refuses "resuming in a folder that is no run" 1 "$scratch/somebody holds other files and no run" train \
    "$scratch/somebody" --resume
check "and leaves that as it was" diff -r "$scratch/somebody" "$scratch/reference/model"
long=$(printf 'd%.0s' {1..200})
long=$scratch/$long/$long/$long/$long/$long/$long/$long/$long/$long/$long/$long/$long/$long/$long/$long/$long/$long/$long/$long/$long
refuses "a path that leaves no room for its files" 1 "bytes, expected at most 3968" train "$long"
check "a path with blanks and other letters" train "$scratch/ein Lauf – 走" --quiet --set train.steps=1 >/dev/null
touch "$scratch/file"
refuses "a file instead of a folder" 1 "$scratch/file" train "$scratch/file"

# Refusals of config and data, which leave no run behind.
refuses "a typo in train" 1 "tiny.json: train.optimizer.lr: unknown key" bash \
    -c "sed 's/learning_rate/lr/' '$tiny' >'$scratch/tiny.json'; '$program' train '$scratch/tiny.json' --data '$scratch/text.txt' --out '$scratch/none'"
refuses "a typo in --set" 2 "--set: train.stepz: unknown key" train "$scratch/none" --set train.stepz=5
refuses "a forgotten prefix" 2 "did you mean train.steps?" train "$scratch/none" --set steps=5
refuses "a key below a value" 2 "--set: train.steps.x: unknown key, train.steps holds no others" train "$scratch/none" \
    --set train.steps.x=5
refuses "a key that is no UTF-8" 2 "--set: the key is not valid UTF-8 (at byte 1)" train "$scratch/none" \
    --set $'a\xff.b=5'
refuses "a value out of range" 2 "--set train.batch_size=0: found 0, expected an integer from 1" train "$scratch/none" \
    --set train.batch_size=0
refuses "a sequence longer than the positions" 2 \
    "--set train.sequence_length=64: train.sequence_length 64 is longer than max_position_embeddings 32" train \
    "$scratch/none" --set train.sequence_length=64
refuses "a vocabulary too small" 2 "--set vocab_size=5: found 5, expected at least the tokenizer's" train \
    "$scratch/none" --set vocab_size=5
refuses "an unsupported loss" 1 "--set train.loss.mtp=0.3: found 0.3, but a model of type llama has no such loss" \
    train "$scratch/none" --set train.loss.mtp=0.3
refuses "no config" 1 "missing.json" "$program" train "$scratch/missing.json" --data "$scratch/text.txt" \
    --out "$scratch/none"
refuses "no data" 1 "missing.txt: No such file" "$program" train "$tiny" --data "$scratch/missing.txt" \
    --out "$scratch/none"
: >"$scratch/empty.txt"
refuses "empty data" 1 "empty.txt: the file is empty" "$program" train "$tiny" --data "$scratch/empty.txt" \
    --out "$scratch/none"
head -c 30 "$scratch/text.txt" >"$scratch/short.txt"
refuses "short data" 1 \
    "short.txt: the data is too short: found 30 tokens, 27 of them for training after train.eval_fraction 0.1; a sequence of train.sequence_length 32 needs 33; take more text, or a train.sequence_length of at most 26" "$program" train "$tiny" --data "$scratch/short.txt" --out "$scratch/none"
refuses "no data at all" 2 "--data" "$program" train "$tiny" --out "$scratch/none"
refuses "more parameters than memory" 1 "the system has no more memory" bash \
    -c "ulimit -v 4000000; exec '$program' train '$tiny' --data '$scratch/text.txt' --out '$scratch/none' --set hidden_size=32768 --quiet"
refuses "divergence in the first step" 1 "step 1: the " train "$scratch/none" --quiet --set initializer_range=1e30
check "nothing was left behind" [ ! -e "$scratch/none" ]

# A full disk (here: a limit on the size of files): a clear message, the last checkpoint stays, the run goes on.
size=$(($(stat -c %s "$scratch/reference/checkpoints/step-00000040/moments.safetensors") / 1024))
refuses "a full disk" 1 "File too large" bash \
    -c "ulimit -f $((size - 10)); exec '$program' train '$tiny' --data '$scratch/text.txt' --out '$scratch/full' --quiet"
check "no half-written checkpoint" [ -z "$(ls "$scratch/full/checkpoints")" ]
check "after that the run goes on" train "$scratch/full" --resume --quiet >/dev/null
check "to the same bytes" same "$scratch/full" "$scratch/reference"

cp -r "$scratch/reference" "$scratch/export"
refuses "a full disk in the export" 1 "export/model/model.safetensors: File too large" bash \
    -c "ulimit -f 8; exec '$program' train '$tiny' --data '$scratch/text.txt' --out '$scratch/export' --resume --quiet"
check "the model from before is whole" diff -r "$scratch/export/model" "$scratch/reference/model"
check "the export is made up for" train "$scratch/export" --resume --quiet >/dev/null
check "with the same bytes" same "$scratch/export" "$scratch/reference"

# Nobody to talk to: no terminal, closed descriptors, a pipe that nobody reads. The run is made all the same.
train "$scratch/silent" <&- >&- 2>&-
check "closed descriptors: exit $?" same "$scratch/silent" "$scratch/reference"
mkfifo "$scratch/unread"
{ exec 7<&-; train "$scratch/piped" >&8 2>&1 8>&-; } 7<>"$scratch/unread" 8>"$scratch/unread"
check "a closed pipe: exit code $?" [ $? == 1 ]
check "a closed pipe: the run is complete" same "$scratch/piped" "$scratch/reference"

# A damaged newest checkpoint: the one before it is taken, with a warning.
cp -r "$scratch/reference" "$scratch/damaged"
printf x | dd of="$scratch/damaged/checkpoints/step-00000040/moments.safetensors" bs=1 seek=5000 conv=notrunc \
    2>/dev/null
train "$scratch/damaged" --resume >/dev/null 2>"$scratch/messages"
check "a damaged checkpoint is no obstacle" [ $? == 0 ]
check "a warning names it" grep \
    -q "1 damaged checkpoint passed over, continuing from step 36: .*moments.safetensors: its checksum is" \
    "$scratch/messages"
check "the run from the one before comes to the same bytes" same "$scratch/damaged" "$scratch/reference"
check "the damaged one is kept aside" [ -e "$scratch/damaged/checkpoints/damaged-step-00000040/state.json" ]

for damage in 'rm X/state.json' ': >X/state.json' 'truncate -s 1000 X/parameters.safetensors' \
    'rm X/moments.safetensors'; do
    rm -rf "$scratch/damaged"
    cp -r "$scratch/reference" "$scratch/damaged"
    bash -c "${damage//X/$scratch/damaged/checkpoints/step-00000040}"
    train "$scratch/damaged" --resume --quiet >/dev/null
    check "$damage: the run comes to the same bytes" same "$scratch/damaged" "$scratch/reference"
done
rm "$scratch"/damaged/checkpoints/step-*/state.json
refuses "no checkpoint that is complete" 1 "none of the 2 checkpoints is complete; the newest: " train \
    "$scratch/damaged" --resume
check "which stay where they are" [ "$(ls -d "$scratch"/damaged/checkpoints/step-* | wc -l)" == 2 ]

# Values that are not finite stop the run and keep what was good.
refuses "divergence" 1 "the last complete checkpoint is that of step" train "$scratch/diverged" --quiet --set train.optimizer.learning_rate=1e-3 --set train.clip_grad_norm=0 \
    --set train.optimizer.weight_decay=1000 \
        --set 'train.schedule={"name":"multi_step","warmup_steps":0,"milestones":[0.2],"factors":[1000]}'
check "the good checkpoint is there" [ -e "$scratch/diverged/checkpoints/step-00000006/state.json" ]

# The exported folder predicts the held-out text as the run's last evaluation says; micro batches add up to the batch.
check "eval agrees with the last evaluation" bash -c "
    '$program' eval '$scratch/reference/model' --data '$scratch/text.txt' --held-out 0.1 --context 32 --json --quiet |
    awk -F'[:,]' -v path='$scratch/reference/metrics.jsonl' '{ loss = \$2 } END { while ((getline < path) > 0) if (\$3 ~ /eval_loss/) last = \$4; d = loss - last; exit !(last > 0 && d < 2e-6 * last && -d < 2e-6 * last) }'"
train "$scratch/whole" --quiet --set train.micro_batch_size=4 --set train.steps=12 >/dev/null
train "$scratch/parts" --quiet --set train.micro_batch_size=1 --set train.steps=12 >/dev/null
check "micro batches add up" awk -F'[:,]' '$3 ~ /"loss"/ { if ($2 in loss) { n++; d = $4 - loss[$2]; if (d > 1e-4 || d < -1e-4) bad = 1 } loss[$2] = $4 } END { exit !(n == 12 && !bad) }' \
    "$scratch/whole/metrics.jsonl" "$scratch/parts/metrics.jsonl"

# Starting from a model folder; a longer run; bf16.
check "training goes on from a model folder" train "$scratch/tuned" --from "$scratch/reference/model" \
    --set train.steps=2 >/dev/null 2>"$scratch/messages"
check "a run that ends within the warm-up is told so" grep \
    -q "warning: train.schedule.warmup_steps 5 is more than train.steps 2: the run ends within the warm-up" \
    "$scratch/messages"
check "with its loss" awk -F'[:,]' \
    '$3 ~ /"loss"/ { if ($2 == 1) { found = 1; good = $4 < 1.5 } } END { exit !(found && good) }' \
    "$scratch/tuned/metrics.jsonl"
check "from a model folder alone, which gives config and tokenizer" "$program" train --from "$scratch/reference/model" --data "$scratch/text.txt" --out "$scratch/alone" --set train.steps=2 \
    --set train.sequence_length=24 >/dev/null 2>"$scratch/messages"
check "and it is said from which" grep -q "^from    $scratch/reference/model$" "$scratch/messages"
check "with its vocabulary" cmp "$scratch/alone/model/tokenizer.json" "$scratch/reference/model/tokenizer.json"
refuses "no config and no model" 2 "CONFIG.json is missing, or --from MODEL in its place" "$program" train \
    --data "$scratch/text.txt" --out "$scratch/none"
refuses "no config and no name" 2 "--out is missing" "$program" train --from "$scratch/reference/model" \
    --data "$scratch/text.txt"
# A tokenizer that would be made from the data is none for weights that know other ids.
"$program" train "$tiny" --from "$scratch/reference/model" --data "$scratch/other.txt" --out "$scratch/fewer" \
    --set train.steps=1 --quiet >/dev/null
check "a tokenizer that the config would make from the data is the model's" cmp "$scratch/fewer/model/tokenizer.json" \
    "$scratch/reference/model/tokenizer.json"
refuses "another shape" 2 \
    "--set intermediate_size=64: found 64, expected 88 as in $scratch/reference/model, whose weights it begins with" \
    train "$scratch/none" --from "$scratch/reference/model" --set intermediate_size=64 --quiet
cp -r "$scratch/reference" "$scratch/longer"
check "a run can be made longer" train "$scratch/longer" --resume --set train.steps=44 --quiet >/dev/null
check "and logs the further steps" [ "$(grep -c '"loss"' "$scratch/longer/metrics.jsonl")" == 44 ]
train "$scratch/grown" --set train.steps=20 --set train.schedule.warmup_steps=null --quiet >/dev/null
check "a warm-up left to its default stays in a longer run" train "$scratch/grown" --resume --set train.steps=40 \
    --set train.schedule.warmup_steps=null --quiet >/dev/null
check "and the log agrees" grep -q '"warmup_steps": 2,' "$scratch/grown/config.json"
check "its default length is that of the positions" bash -c "'$program' train '$tiny' --data '$scratch/text.txt' --out '$scratch/length' --set train.steps=1 --set train.sequence_length=null --quiet >/dev/null &&
    grep -q '\"sequence_length\": 32,' '$scratch/length/config.json'"
for threads in 1 2; do train "$scratch/bf16-$threads" --compute bf16 --threads $threads --set train.dtype=bfloat16 \
    --quiet >/dev/null; done
check "bf16 gives the same bytes on one thread and two" same "$scratch/bf16-1" "$scratch/bf16-2"
check "bf16 learns what fp32 learns" awk -F'[:,]' '$3 ~ /"eval_loss"/ && $2 == 40 { loss[FILENAME] = $4 } END { for (f in loss) { if (!n++) a = loss[f]; b = loss[f] } exit !(n == 2 && a - b < 0.05 && b - a < 0.05) }' \
    "$scratch/bf16-1/metrics.jsonl" "$scratch/reference/metrics.jsonl"
finish
