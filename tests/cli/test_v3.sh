#!/bin/sh
# The doors on models of the third generation: modules of multi-token prediction, FP8 checkpoints, the biases of the
# gates.
. "$(dirname "$0")/lib.sh"
D=$DEEPSEEK
V3=tests/golden/v3 FP8=tests/golden/v3-fp8
echo '[[1,2,3,4,5,6,7,8,9,10,11],[12],[13,14],[15,16,17,18,19,20]]' >"$T/ragged.json"
echo '[[3],[4]]' >"$T/single.json"
echo '[[3,4,5,6,7,8,9],[9,8,7,6,5,4,3]]' >"$T/batch.json"

# ---- logits: those of the trunk do not depend on the module, and neither on the cut or the threads ----
for model in $V3 $FP8; do
    for compute in fp32 bf16; do
        check "$model $compute" 0 '' '' $D logits $model -t "$T/ragged.json" --compute $compute --with-mtp -o "$T/mtp"
        for how in '--chunk 1' '--chunk 4' '--threads 1' '--threads 3 --chunk 3' '--cache-type '$compute; do
            check "$model $compute $how" 0 '' '' $D logits $model -t "$T/ragged.json" --compute $compute \
                --with-mtp $how -o "$T/other"
            expect "$model $compute $how: the same bytes" cmp -s "$T/mtp" "$T/other"
        done
        check "$model $compute without the module" 0 '' '' $D logits $model -t "$T/ragged.json" --compute $compute \
            -o "$T/plain"
        if command -v python3 >/dev/null; then
            expect "$model $compute: the trunk's logits, and zeros where no token follows" python3 - "$T/mtp" \
                "$T/plain" <<'END'
import json, struct, sys
def load(path):
    data = open(path, "rb").read()
    size, = struct.unpack("<Q", data[:8])
    return {name: (t["shape"], data[8 + size + t["data_offsets"][0]:8 + size + t["data_offsets"][1]])
            for name, t in json.loads(data[8:8 + size]).items() if name != "__metadata__"}
both, plain = load(sys.argv[1]), load(sys.argv[2])
assert sorted(both) == ["logits", "mtp_logits"] and list(plain) == ["logits"] and both["logits"] == plain["logits"]
(b, t, v), data = both["mtp_logits"]
assert (b, t) == (4, 10)
for row, length in enumerate((11, 1, 2, 6)):
    for i in range(t):
        assert any(data[4 * (row * t + i) * v:4 * (row * t + i + 1) * v]) == (i < length - 1)
END
        fi
    done
done
check 'no module' 1 '' '^deepseek logits: --with-mtp: the model has no module of multi-token prediction' $D logits \
    tests/golden/v2 -t "$T/ragged.json" --with-mtp -o "$T/never"
check 'nothing follows' 1 '' 'single.json: the arrays have one token, expected at least two with --with-mtp' $D logits \
    $V3 -t "$T/single.json" --with-mtp -o "$T/never"
check 'expanded prefill' 0 '' '' $D logits $V3 -t "$T/ragged.json" --with-mtp --prefill expanded -o "$T/other"

# ---- the module's tensors: needed where it runs, and only there ----
cp -r $V3 "$T/lacking"
chmod -R u+w "$T/lacking"
if command -v python3 >/dev/null; then
    python3 - "$T/lacking/model.safetensors" <<'END' || exit 1
import json, struct, sys
data = open(sys.argv[1], "rb").read()
size, = struct.unpack("<Q", data[:8])
header, body, kept, at = json.loads(data[8:8 + size]), data[8 + size:], {}, 0
out = b""
for name, t in header.items():
    if name == "__metadata__" or ".layers.3." in name:
        continue
    a, b = t["data_offsets"]
    kept[name] = dict(t, data_offsets=[len(out), len(out) + b - a])
    out += body[a:b]
text = json.dumps(kept).encode()
text += b" " * (-len(text) % 8)
open(sys.argv[1], "wb").write(struct.pack("<Q", len(text)) + text + out)
END
    check 'without the tensors' 0 '' '' $D logits "$T/lacking" -t "$T/ragged.json" -o "$T/other"
    check 'the module without its tensors' 1 '' \
        'tensors that config.json asks for are missing: model.layers.3.enorm.weight' $D logits "$T/lacking" \
        -t "$T/ragged.json" --with-mtp -o "$T/never"
    check 'drafting without its tensors' 0 '*' 'warning: nothing is drafted: .*model.layers.3.enorm.weight' $D \
        generate "$T/lacking" -t "$T/batch.json" -n 4
    check 'drafting always without its tensors' 1 '' 'tensors that config.json asks for are missing' $D generate \
        "$T/lacking" -t "$T/batch.json" -n 4 --draft 1
    check 'training without its tensors' 1 '' 'model.layers.3.enorm.weight' $D grads "$T/lacking" -t "$T/batch.json" \
        -o "$T/never"
    sed 's/"num_nextn_predict_layers": 1/"num_nextn_predict_layers": 0/' $V3/config.json >"$T/lacking/config.json"
    check 'training where the config says none' 0 '' '' $D grads "$T/lacking" -t "$T/batch.json" -o "$T/without"
    cp $V3/model.safetensors "$T/lacking/model.safetensors"
    check 'tensors of which the config says nothing' 0 '' 'num_nextn_predict_layers' $D logits "$T/lacking" \
        -t "$T/ragged.json" -o "$T/other2"
    expect 'and which change nothing' cmp -s "$T/other" "$T/other2"
fi

# ---- drafting: the same texts, and what cannot be ----
check 'plain' 0 '*' '*' $D generate $V3 -t "$T/batch.json" -n 40 --ignore-eos --draft off
cp "$T/out" "$T/plain"
for draft in auto 1; do
    check "drafts, $draft" 0 '*' '*' $D generate $V3 -t "$T/batch.json" -n 40 --ignore-eos --draft $draft
    expect "drafts, $draft: the same ids" cmp -s "$T/out" "$T/plain"
done
check 'what was drafted' 0 '*' '^drafts accepted: [0-9]*% of [0-9]' $D generate $V3 -t "$T/batch.json" -n 40 \
    --ignore-eos --draft 1
check 'too many modules' 2 '' '--draft: found 2, expected at most 1' $D generate $V3 -t "$T/batch.json" --draft 2
check 'no module to draft' 2 '' '--draft: found 1, expected at most 0' $D generate tests/golden/v2 -t "$T/batch.json" \
    --draft 1
check 'no way to draft' 2 '' '--draft: found `maybe`, expected auto, off or a number from 1 to 4' $D generate $V3 \
    -t "$T/batch.json" --draft maybe
check 'expanded passes' 2 '' '--draft: found 1, expected off or auto with --prefill expanded' $D generate $V3 \
    -t "$T/batch.json" --draft 1 --prefill expanded
check 'bench drafts' 0 '"drafting": {"tokens": 8, "acceptance": \[' '' $D bench $V3 -p 8 -n 8 -r 1 --json -q
check 'bench does not draft' 0 '"results"' '' $D bench $V3 -p 8 -n 8 -r 1 --json -q --draft off
expect 'bench does not draft: no key' sh -c '! grep -q drafting "$0"' "$T/out"

# ---- grads and steps ----
echo '{"loss":{"mtp":0.3,"balance_sequence":0.001}}' >"$T/loss.json"
check 'grads' 0 '' '' $D grads $V3 -t "$T/batch.json" -s "$T/loss.json" -o "$T/grads"
for name in loss.mtp loss.balance_sequence model.layers.3.eh_proj.weight model.layers.3.shared_head.norm.weight; do
    expect "grads: $name" grep -q "\"$name\"" "$T/grads"; done
echo '{"loss":{"mtp":0.3}}' >"$T/mtp.json"
check 'the loss of modules that are not there' 1 '' \
    'loss.mtp: found 0.3, but a model of type deepseek_v2 has no such loss' $D grads tests/golden/v2 \
    -t "$T/batch.json" -s "$T/mtp.json" -o "$T/never"
echo '[[[3,4,5,6,7,8,9],[9,8,7,6,5,4,3]],[[3,4,5,6,7,8,9],[9,8,7,6,5,4,3]]]' >"$T/steps.json"
echo '{"optimizer":{"name":"adamw","learning_rate":0.001},"loss":{"mtp":0.3},"bias_update_speed":0.001}' \
    >"$T/adamw.json"
check 'steps' 0 '' '' $D steps $V3 -t "$T/steps.json" -s "$T/adamw.json" -o "$T/after"
check 'steps on one thread' 0 '' '' $D steps $V3 -t "$T/steps.json" -s "$T/adamw.json" --threads 1 -o "$T/after1"
expect 'steps: the same bytes' cmp -s "$T/after" "$T/after1"
expect 'steps: the biases' grep -q '"model.layers.3.mlp.gate.e_score_correction_bias"' "$T/after"
finish
