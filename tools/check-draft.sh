#!/bin/sh
# Texts with and without drafting, of a model with modules of multi-token prediction: 100 prompts, greedy and with three
# seeds each. Every text must be the same.
#
#   tools/check-draft.sh MODEL [deepseek]
#
# Prompts are made of the tokens that the model itself writes after a single random one. Prints a line for each way and
# how often drafts were right; exit code 1 where a text differs.
set -eu
model=${1:?usage: tools/check-draft.sh MODEL [deepseek]}
program=${2:-./deepseek}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 - "$model" "$work" <<'EOF'
import json, random, sys
model, work = sys.argv[1:]
vocab = json.load(open(f"{model}/config.json"))["vocab_size"]
random.seed(1)
json.dump([[random.randrange(vocab)] for _ in range(100)], open(f"{work}/first.json", "w"))
EOF
"$program" generate "$model" --tokens "$work/first.json" -n 40 --temperature 1 --ignore-eos --draft off --quiet > \
    "$work/written.json"
python3 - "$work" <<'EOF'
import json, sys
work = sys.argv[1]
first, written = (json.load(open(f"{work}/{name}.json")) for name in ("first", "written"))
json.dump([a + b[:i % 40] for i, (a, b) in enumerate(zip(first, written))], open(f"{work}/prompts.json", "w"))
EOF

modules=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1] + "/config.json"))["num_nextn_predict_layers"])' "$model")
failed=0
for sampling in "--temperature 0" "--temperature 1 --seed 1" "--temperature 0.8 --top-p 0.95 --seed 2" \
    "--temperature 1.2 --top-k 50 --seed 3"; do
    # shellcheck disable=SC2086
    "$program" generate "$model" --tokens "$work/prompts.json" -n 64 --ignore-eos $sampling --draft off --quiet > \
        "$work/plain.json"
    for draft in auto 1 "$modules"; do
        # shellcheck disable=SC2086
        "$program" generate "$model" --tokens "$work/prompts.json" -n 64 --ignore-eos $sampling --draft "$draft" > \
            "$work/drafted.json" 2> "$work/said"
        if cmp -s "$work/plain.json" "$work/drafted.json"; then verdict=same; else verdict=DIFFERENT failed=1; fi
        printf '%-40s --draft %-4s  100 texts %s  %s\n' "$sampling" "$draft" "$verdict" \
            "$(sed -n 's/^drafts accepted: /accepted: /p' "$work/said")"
    done
done
exit $failed
