#!/bin/bash
# A small V2 (latent attention, fine-grained experts) and a V1 of equal training FLOPs per token, on Shakespeare
# character by character and on generated stories:
# several seeds each, two runs at a time on one thread each. Prints, in Markdown, the FLOPs, a table of held-out losses
# by seed, and both curves (means over the seeds).
#
#   DEEPSEEK=PATH    the program (default: ./deepseek)
#   OUT=FOLDER       where runs and logs go (default: runs/v2-against-v1); runs that are finished are not made again
#   SEEDS="1 2 3"    one run of each model for each
#   JOBS=2           runs at a time
#   SHAKESPEARE=2000, STORIES=1000   steps; 0 leaves a text out
#   INIT=0.04                        deviation of the initial weights, of both models
#   SET="KEY=VALUE ..."              more settings, for both models
#
# Both models of a text have the same data, tokenizer, batch, optimizer, schedule and initial deviation; what differs is
# what the two configs say of the model, and V2's balance losses.
set -u
cd "$(dirname "$0")/.." || exit 1
program=${DEEPSEEK:-./deepseek}
[[ $program == */* ]] || program=./$program
[[ -x $program ]] || { echo "$program: not built yet; run make" >&2; exit 1; }
out=${OUT:-runs/v2-against-v1}
seeds=${SEEDS:-1 2 3}
jobs=${JOBS:-2}
shakespeare=${SHAKESPEARE:-2000}
stories=${STORIES:-1000}
mkdir -p "$out" || exit 1
sets=(--set "initializer_range=${INIT:-0.04}")
for assignment in ${SET:-}; do sets+=(--set "$assignment"); done

# train NAME SEED STEPS CONFIG DATA [OPTION]...: one run, resumed where it was interrupted.
train() {
    local run=$out/$1-$2 seed=$2 steps=$3 config=$4 data=$5
    shift 5
    "$program" train "$config" --data "$data" --out "$run" --threads 1 --quiet --resume --set train.seed="$seed" \
        --set train.steps="$steps" --set train.eval_every=$(((steps + 9) / 10)) \
        --set train.sample_every=0 --set train.save_every=0 "$@" "${sets[@]}" >"$run.log" 2>&1 || { echo \
            "$run failed:" >&2; tail -n 3 "$run.log" >&2; return 1; }
}

# The runs, `jobs` at a time.
failed=0
start() {
    while (($(jobs -rp | wc -l) >= jobs)); do wait -n || failed=1; done
    train "$@" &
}
trap 'kill $(jobs -rp) 2>/dev/null; wait; exit 130' INT TERM

if ((stories > 0)); then
    if [[ ! -e $out/stories.jsonl ]]; then "$program" data stories --bytes 16M --format jsonl \
        --out "$out/stories.jsonl" --quiet || exit 1; fi
    if [[ ! -e $out/tokenizer/tokenizer.json ]]; then "$program" tokenize train --data "$out/stories.jsonl" \
        --vocab-size 2048 --out "$out/tokenizer" --quiet >/dev/null || exit 1; fi
fi
for seed in $seeds; do
    if ((shakespeare > 0)); then
        start shakespeare-v1 "$seed" "$shakespeare" configs/shakespeare-char.json data/tinyshakespeare.txt
        start shakespeare-v2 "$seed" "$shakespeare" configs/shakespeare-char-v2.json data/tinyshakespeare.txt
    fi
    if ((stories > 0)); then
        start stories-v1 "$seed" "$stories" configs/demo.json "$out/stories.jsonl" \
            --set train.tokenizer="$out/tokenizer"
        start stories-v2 "$seed" "$stories" configs/v2-small.json "$out/stories.jsonl" \
            --set train.tokenizer="$out/tokenizer"
    fi
done
while (($(jobs -rp | wc -l) > 0)); do wait -n || failed=1; done
((failed)) && { echo "some runs failed; what follows is of the others" >&2; }

# evals RUN: "step loss" of each evaluation of a log; the last one is over the whole held-out part.
evals() { awk -F'[:,]' '/"eval_loss"/ { print $2 + 0, $4 + 0 }' "$1/metrics.jsonl" 2>/dev/null; }
# figure CONFIG KEY: a number of info's.
figure() { "$program" info "$1" --set vocab_size="$3" --json | awk -F'[:,]' -v key="\"$2\"" \
    '$1 ~ key && $2 + 0 > 0 { print $2 + 0; exit }'; }

# report TEXT STEPS V1 V2 VOCABULARY
report() {
    local text=$1 steps=$2 seed model
    printf '\n## %s, %s steps\n\n' "$text" "$steps"
    printf '| | V1 (`%s`) | V2 (`%s`) |\n|---|---|---|\n' "$3" "$4"
    printf '| parameters | %s | %s |\n' "$(figure "$3" parameters "$5")" "$(figure "$4" parameters "$5")"
    printf '| active for a token | %s | %s |\n' "$(figure "$3" active_parameters "$5")" \
        "$(figure "$4" active_parameters "$5")"
    printf '| training FLOPs per token | %s | %s |\n' "$(figure "$3" training "$5")" "$(figure "$4" training "$5")"
    for seed in $seeds; do
        printf '| held-out loss, seed %s' "$seed"
        for model in v1 v2; do printf ' | %s' \
            "$(evals "$out/$text-$model-$seed" | tail -n 1 | awk '{ printf "%.4f", $2 }')"; done
        printf ' |\n'
    done
    printf '| mean'
    for model in v1 v2; do
        printf ' | %s' \
            "$(for seed in $seeds; do evals "$out/$text-$model-$seed" | tail -n 1; done | awk '{ sum += $2; n++ } END { if (n) printf "%.4f", sum / n }')"
    done
    printf ' |\n| seconds of a run'
    for model in v1 v2; do
        printf ' | %s' \
            "$(for seed in $seeds; do cat "$out/$text-$model-$seed/timing.jsonl"; done | awk -F'[:,]' -v runs="$(wc -w <<<"$seeds")" '{ sum += $4 } END { printf "%.0f", sum / runs }')"
    done
    printf ' |\n| largest MaxVio of a layer, mean of the last tenth | | %s |\n' "$(for seed in $seeds; do tail -n $((steps / 10)) "$out/$text-v2-$seed/metrics.jsonl"; done |
        sed -nE 's/.*"max_violation": \[([^]]*)\].*/\1/p' | awk -F', *' '{ most = 0; for (i = 1; i <= NF; i++) if ($i > most) most = $i; sum += most; n++ } END { if (n) printf "%.2f", sum / n }')"
    # By step: means over the seeds, and a picture of them.
    for model in v1 v2; do
        for seed in $seeds; do evals "$out/$text-$model-$seed"; done | awk -v model=$model \
            '{ sum[$1] += $2; n[$1]++ } END { for (s in sum) print s, model, sum[s] / n[s] }'
    done | sort -n | awk '
        { if (!($1 in seen)) { seen[$1] = 1; order[++count] = $1 } loss[$1, $2] = $3; if (low == "" || $3 < low) low \
            = $3; if ($3 > high) high = $3 }
        END {
            print "\nHeld-out loss by step, means over the seeds\n\n| step | V1 | V2 | difference |\n|---|---|---|---|"
            for (i = 1; i <= count; i++) { s = order[i]; printf "| %d | %.4f | %.4f | %+.4f |\n", s, loss[s, "v1"], \
                loss[s, "v2"], loss[s, "v2"] - loss[s, "v1"] }
            print ""
            height = 14
            if (high <= low) high = low + 1e-6
            for (row = 0; row < height; row++) {
                line = ""
                for (i = 1; i <= count; i++) {
                    one = int((high - loss[order[i], "v1"]) / (high - low) * (height - 1) + 0.5) == row
                    two = int((high - loss[order[i], "v2"]) / (high - low) * (height - 1) + 0.5) == row
                    line = line "    " (one && two ? "B" : one ? "1" : two ? "2" : " ")
                }
                printf "    %7s |%s\n", row == 0 || row == height - 1 || row == 7 ? \
                    sprintf("%.3f", high - (high - low) * row / (height - 1)) : "", line
            }
            line = ""
            for (i = 1; i <= count; i++) line = line sprintf("%5d", order[i])
            printf "            +%s   steps: 1 = V1, 2 = V2, B = both\n", line
        }'
}
((shakespeare > 0)) && report shakespeare "$shakespeare" configs/shakespeare-char.json \
    configs/shakespeare-char-v2.json 66
((stories > 0)) && report stories "$stories" configs/demo.json configs/v2-small.json 2048
exit $failed
