#!/bin/bash
# Models with routed experts from outside: what they cannot be asked for, the doors' weights, a context extended with
# --from.
. "$(dirname "$0")/common.sh"
tiny=$(dirname "$tiny")/tiny-v2.json
golden=tests/golden/moe16b

# What a model does not have is refused before any work, and no run is left behind.
refuses "a capacity of zero" 2 "--set train.capacity_factor=0: found 0, expected a number above 0" train \
    "$scratch/none" --set train.capacity_factor=0
refuses "a capacity below zero" 2 "--set train.capacity_factor=-1: found -1, expected a number above 0" train \
    "$scratch/none" --set train.capacity_factor=-1
refuses "devices where there is one" 1 "train.loss.balance_device: found 0.05, but a model of type deepseek_v2 has no such loss: its experts are one group (n_group 1), for which it is a constant" \
    train "$scratch/none" --set n_group=1 --set topk_group=1
refuses "experts that groups do not divide" 1 \
    "n_routed_experts 8 is not divisible by n_group 3 (with --set n_group=3)" train "$scratch/none" --set n_group=3
refuses "more active experts than the allowed groups hold" 2 "num_experts_per_tok" train "$scratch/none" \
    --set num_experts_per_tok=5
refuses "a batch that begins above the batch" 2 \
    "--set train.schedule.batch_start=6: found 6, expected a multiple of micro_batch_size 2, up to batch_size 4" train \
    "$scratch/none" --set train.schedule.batch_start=6
refuses "a growing batch that never grows" 2 \
    "batch_ramp_tokens=0: found 0, expected a value above 0, as for batch_start" train "$scratch/none" \
    --set train.schedule.batch_ramp_tokens=0
check "nothing was left behind" [ ! -e "$scratch/none" ]

# The doors take weights of parts that the model has, and only those.
if [ -d $golden ]; then
    echo '{"loss": {"balance_device": 0.05}}' >"$scratch/device.json"
    echo '{"loss": {"mtp": 0.3}}' >"$scratch/mtp.json"
    refuses "grads: a part that the model lacks" 1 "device.json: loss.balance_device: found 0.05, but a model of type deepseek has no such loss: its experts are one group" \
        "$program" grads $golden --tokens $golden/tokens.json --settings "$scratch/device.json" \
            -o "$scratch/grads.safetensors"
    refuses "steps: a part that the model lacks" 1 "mtp.json: loss.mtp: found 0.3, but a model of type deepseek has no such loss" \
        "$program" steps $golden --tokens $golden/steps_adamw.tokens.json --settings "$scratch/mtp.json" \
            -o "$scratch/steps.safetensors"
    check "grads writes the part that has a weight" "$program" grads $golden --tokens $golden/tokens.json \
        --settings $golden/grads_balance.json -o "$scratch/grads.safetensors" --quiet
    check "under its name" grep -aq '"loss.balance_expert"' "$scratch/grads.safetensors"
    check "and no other" bash -c "! grep -aq 'loss.balance_device' '$scratch/grads.safetensors'"
fi

# A short-context model, extended four times: the config comes from the model, the rest of YaRN from the paper.
train "$scratch/short" >/dev/null 2>"$scratch/messages"
check "the short run ends" [ $? == 0 ]
check "metrics hold the load" grep \
    -q '"max_violation": \[[0-9.e-]*, [0-9.e-]*\], "load_entropy": \[[0-9.e-]*, [0-9.e-]*\], "dropped": ' \
    "$scratch/short/metrics.jsonl"
# Longer or resumed, the batches are those of the tokens seen: 2 sequences, 4 from token 2000 on.
last_tokens() { sed -n 's/.*"grad_norm".*"tokens": \([0-9]*\),.*/\1/p' "$1/metrics.jsonl" | tail -n 1; }
check "tokens are those of the real batches" [ "$(last_tokens "$scratch/short")" == $((32 * 2 * 32 + 8 * 4 * 32)) ]
cp -r "$scratch/short" "$scratch/longer"
check "a run with a growing batch can be made longer" train "$scratch/longer" --resume --set train.steps=44 \
    --quiet >/dev/null
check "which goes on with the full batch" [ "$(last_tokens "$scratch/longer")" == $((32 * 2 * 32 + 12 * 4 * 32)) ]
extend() {
    local run=$1
    shift
    "$program" train --from "$scratch/short/model" --data "$scratch/text.txt" --out "$run" --set rope_scaling.factor=4 \
        --set train.sequence_length=128 --set train.batch_size=2 --set train.steps=4 \
        --set train.sample_every=0 "$@"
}
check "the extended run ends" extend "$scratch/long" >"$scratch/out" 2>"$scratch/messages"
check "and says what is new" grep -q "^from    $scratch/short/model; changed: .*rope_scaling" "$scratch/messages"
if command -v python3 >/dev/null; then   # without it the two checks that read JSON are left out
    python3 - "$scratch/long/model/config.json" >"$scratch/out" 2>&1 <<'END'
import json, sys
config = json.load(open(sys.argv[1]))
rope = config["rope_scaling"]
assert config["max_position_embeddings"] == 128, config["max_position_embeddings"]
assert rope == {"type": "yarn", "factor": 4, "original_max_position_embeddings": 32, "beta_fast": 32, "beta_slow": 1,
                "mscale": 0.707, "mscale_all_dim": 0.707}, rope
END
    check "with a config that says all of it: $(tail -n 1 "$scratch/out")" [ ! -s "$scratch/out" ]
fi
check "resuming it changes nothing" extend "$scratch/long" --resume --quiet >/dev/null
"$program" eval "$scratch/long/model" --data "$scratch/text.txt" --context 128 --json --quiet >"$scratch/eval.json"
command -v python3 >/dev/null && check "eval has a loss at all 128 positions" python3 \
    -c "import json; d = json.load(open('$scratch/eval.json')); assert len(d['loss_by_position']) == 128 and all(x > 0 for x in d['loss_by_position'])"
refuses "a width that is not the model's" 2 "--set kv_lora_rank=32: found 32, expected 16 as in $scratch/short/model" \
    extend "$scratch/none" --set kv_lora_rank=32
refuses "sequences beyond the extended context" 2 \
    "train.sequence_length 256 is longer than max_position_embeddings 128" extend "$scratch/none" \
    --set train.sequence_length=256
refuses "one mscale alone" 1 "mscale" extend "$scratch/none" --set rope_scaling.mscale=0.5
refuses "YaRN where there is none" 1 "yarn" "$program" train "$(dirname "$tiny")/tiny.json" --data "$scratch/text.txt" \
    --out "$scratch/none" --set rope_scaling.type=yarn --set rope_scaling.factor=4
check "nothing was left behind" [ ! -e "$scratch/none" ]
finish
