#!/bin/bash
# Three experiments with a small V3 on generated stories, two runs at a time on one thread each:
#
#   compute   fp32, bf16 and fp8 with the same seeds: held-out loss, mean over the last tenth of the evaluations, and
#   the gaps, paired by seed
#   balance   loss-free balancing (bias_update_speed 0.001) against the auxiliary loss alone (weight 0.001): MaxVio at
#   the end, of a batch and of the held-out data, and held-out loss
#   mtp       how often the module's guess is the model's own, over the training of the runs in bf16 (of `compute`)
#
#   DEEPSEEK=PATH    the program (default: ./deepseek)
#   OUT=FOLDER       where runs and logs go (default: runs/v3); runs that are finished are not made again, interrupted
#   ones are resumed
#   PARTS="compute balance mtp"
#   SEEDS="1 2 3 4 5", STEPS=800, JOBS=2
# Prints Markdown.
set -u
cd "$(dirname "$0")/.." || exit 1
program=${DEEPSEEK:-./deepseek}
[[ $program == */* ]] || program=./$program
[[ -x $program ]] || { echo "$program: not built yet; run make" >&2; exit 1; }
out=${OUT:-runs/v3}
parts=${PARTS:-compute balance mtp}
seeds=${SEEDS:-1 2 3 4 5}
steps=${STEPS:-800}
jobs=${JOBS:-2}
mkdir -p "$out" || exit 1
wants() { [[ " $parts " == *" $1 "* ]]; }

[[ -e $out/stories.jsonl ]] || "$program" data stories --bytes 8M --format jsonl --out "$out/stories.jsonl" \
    --quiet || exit 1
[[ -e $out/tokenizer/tokenizer.json ]] || "$program" tokenize train --data "$out/stories.jsonl" --vocab-size 1024 \
    --out "$out/tokenizer" --quiet >/dev/null || exit 1

# train NAME SEED [OPTION]...: one run, resumed where it was interrupted; fifty evaluations.
train() {
    local run=$out/$1-$2 seed=$2
    shift 2
    "$program" train configs/v3-small.json --data "$out/stories.jsonl" --out "$run" --threads 1 --quiet --resume \
        --set train.tokenizer="$out/tokenizer" --set train.seed="$seed" \
        --set train.steps="$steps" --set train.eval_every=$(((steps + 49) / 50)) --set train.sample_every=0 \
            --set train.save_every=0 "$@" >"$run.log" 2>&1 ||
        { echo "$run failed:" >&2; tail -n 3 "$run.log" >&2; return 1; }
}
failed=0
start() {
    while (($(jobs -rp | wc -l) >= jobs)); do wait -n || failed=1; done
    train "$@" &
}
trap 'kill $(jobs -rp) 2>/dev/null; wait; exit 130' INT TERM

types=
wants compute && types="fp32 bf16 fp8"
wants mtp && ! wants compute && types=bf16
for seed in $seeds; do
    for type in $types; do start "$type" "$seed" --set train.compute="$type"; done
    if wants balance; then
        start free "$seed" --set num_nextn_predict_layers=0 --set train.loss.mtp=0 --set train.loss.balance_sequence=0
        start aux "$seed" --set num_nextn_predict_layers=0 --set train.loss.mtp=0 \
            --set train.loss.balance_sequence=0.001 --set train.bias_update_speed=0
    fi
done
while (($(jobs -rp | wc -l) > 0)); do wait -n || failed=1; done
((failed)) && echo "some runs failed; what follows is of the others" >&2

# late RUN: mean held-out loss over the last tenth of the evaluations.
late() { awk -F'"eval_loss": ' \
    'NF > 1 { split($2, x, ","); loss[n++] = x[1] } END { k = int((n + 9) / 10); for (i = n - k; i < n; i++) sum += loss[i]; if (k) printf "%.6f", sum / k }' "$out/$1/metrics.jsonl" 2>/dev/null; }
# largest RUN KEY: the largest number of the last list with this key.
largest() { awk -F"\"$2\": \\\\[" \
    'NF > 1 { split($2, x, "]"); list = x[1] } END { n = split(list, v, ", "); for (i = 1; i <= n; i++) if (v[i] > m) m = v[i]; printf "%.3f", m }' "$out/$1/metrics.jsonl" 2>/dev/null; }
# spread: mean and standard error of the numbers on standard input.
spread() { awk \
    '{ s += $1; q += $1 * $1; n++ } END { m = s / n; printf "%.4f ± %.4f", m, (n > 1 ? sqrt((q - n * m * m) / (n - 1) / n) : 0) }'; }

if wants compute; then
    printf '\n## fp32, bf16, fp8: %s steps, held-out loss over the last tenth of the evaluations\n\n| seed | fp32 | bf16 | fp8 | bf16 - fp32, %% | fp8 - bf16, %% |\n|---|---|---|---|---|---|\n' "$steps"
    for seed in $seeds; do
        a=$(late "fp32-$seed") b=$(late "bf16-$seed") c=$(late "fp8-$seed")
        awk -v s="$seed" -v a="$a" -v b="$b" -v c="$c" \
            'BEGIN { printf "| %s | %.4f | %.4f | %.4f | %+.3f | %+.3f |\n", s, a, b, c, 100 * (b - a) / a, 100 * (c - b) / b }'
    done | tee "$out/compute.table"
    printf '| mean ± standard error'
    for column in 3 4 5 6 7; do printf ' | %s' \
        "$(awk -F'|' -v c="$column" '{ print $c + 0 }' "$out/compute.table" | spread)"; done
    printf ' |\n'
fi
if wants balance; then
    printf '\n## Loss-free balancing and the auxiliary loss: %s steps\n\n| seed | loss, loss-free | loss, auxiliary | MaxVio of the held-out data, loss-free | auxiliary | MaxVio of the last batch, loss-free | auxiliary |\n|---|---|---|---|---|---|---|\n' "$steps"
    for seed in $seeds; do
        printf '| %s | %.4f | %.4f | %s | %s | %s | %s |\n' "$seed" "$(late "free-$seed")" "$(late "aux-$seed")" "$(largest "free-$seed" eval_max_violation)" "$(largest "aux-$seed" eval_max_violation)" \
            "$(largest "free-$seed" max_violation)" "$(largest "aux-$seed" max_violation)"
    done | tee "$out/balance.table"
    printf '| mean ± standard error'
    for column in 3 4 5 6 7 8; do printf ' | %s' \
        "$(awk -F'|' -v c="$column" '{ print $c + 0 }' "$out/balance.table" | spread)"; done
    printf ' |\n'
fi
if wants mtp; then
    printf '\n## MTP: share of positions at which the module guesses what the model says, over training\n\n| step | mean of the seeds |\n|---|---|\n'
    for seed in $seeds; do
        awk -F'[:,]' '/"mtp_acceptance"/ { step = $2 + 0; split($0, x, "\"mtp_acceptance\": \\["); print step, x[2] + 0 }' "$out/bf16-$seed/metrics.jsonl"
    done | awk '{ if (!($1 in n)) order[++k] = $1; s[$1] += $2; n[$1]++ } END { for (i = 1; i <= k; i += i < 5 ? 1 : 5) printf "| %d | %.3f |\n", order[i], s[order[i]] / n[order[i]]; if ((k - 5) % 5) printf "| %d | %.3f |\n", order[k], s[order[k]] / n[order[k]] }'
fi
exit $failed
