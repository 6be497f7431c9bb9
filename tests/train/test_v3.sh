#!/bin/bash
# V3 from outside: what it cannot be asked for, a run that is killed in fp8, what --from takes over, two phases of a
# longer context.
. "$(dirname "$0")/common.sh"
tiny=$(dirname "$tiny")/tiny-v3.json

refuses "a negative speed" 2 "--set train.bias_update_speed=-0.1: found -0.1, expected a number from 0 to 1" train \
    "$scratch/none" --set train.bias_update_speed=-0.1
refuses "another word for moments" 2 \
    '--set train.optimizer.moments=half: found "half", expected "float32", "bfloat16"' train "$scratch/none" \
    --set train.optimizer.moments=half
refuses "a shape that there is not" 2 "expected a list of up to 8 of \"constant\", \"linear\", \"cosine\"" train \
    "$scratch/none" --set 'train.schedule.shapes=["wave","constant"]'
refuses "a weight of modules that are not there" 1 "train.loss.mtp=0.3: found 0.3, but a model of type deepseek_v3 has no such loss: it has no such modules (num_nextn_predict_layers 0)" \
    train "$scratch/none" --set num_nextn_predict_layers=0 --set train.loss.mtp=0.3
refuses "a speed without biases" 1 "train.bias_update_speed=0.001: found 0.001, but a model of type deepseek_v2 has no routers with a bias (topk_method noaux_tc)" \
    "$program" train "$(dirname "$tiny")/tiny-v2.json" --data "$scratch/text.txt" --out "$scratch/none" \
        --set train.bias_update_speed=0.001
check "nothing was left behind" [ ! -e "$scratch/none" ]
check "without modules nothing asks for them" train "$scratch/plain" --set num_nextn_predict_layers=0 \
    --set train.steps=2 --quiet >/dev/null
check "and nothing is said of them" bash -c "! grep -q mtp '$scratch/plain/metrics.jsonl'"

# In fp8: the same bytes on one thread and two, and where a process was killed between its checkpoints.
train "$scratch/one" --compute fp8 --threads 1 >/dev/null 2>"$scratch/messages"
check "a run in fp8 ends" [ $? == 0 ]
check "and tells what it trains" grep \
    -q "^model   .* parameters, 2 layers of width 32, vocabulary .*, 1 MTP module of " "$scratch/messages"
check "in which type" grep -q "^steps   30 of 4 x 32 tokens, fp8" "$scratch/messages"
check "and how often the module is right" grep -q "held-out loss .*; MTP [0-9.]*, accepts [0-9.]*%" "$scratch/messages"
train "$scratch/two" --compute fp8 --threads 2 --quiet >/dev/null
check "two threads make the same bytes" same "$scratch/two" "$scratch/one"
cp -r "$scratch/one" "$scratch/killed"
rm -rf "$scratch"/killed/checkpoints/step-00000030 "$scratch/killed/model"
check "gone on from an earlier checkpoint" train "$scratch/killed" --resume --compute fp8 --threads 2 --quiet >/dev/null
check "it comes to the same bytes" same "$scratch/killed" "$scratch/one"
check "the loss falls" awk -F'[:,]' \
    '$3 ~ /"loss"/ { if ($2 == 1) first = $4; last = $4 } END { exit !(last > 0 && last < 0.8 * first) }' \
    "$scratch/one/metrics.jsonl"
refuses "moments of another type" 1 \
    'the run was begun with train.optimizer.moments = "bfloat16", the config now says "float32"' train "$scratch/one" \
    --resume --compute fp8 --set train.optimizer.moments=float32

# --from takes the biases over, and the modules, or leaves them out.
check "weights taken over" train "$scratch/taken" --from "$scratch/one/model" --set train.steps=1 \
    --set train.optimizer.learning_rate=0 --set train.bias_update_speed=0 --quiet >/dev/null
check "are the same, biases and modules included" cmp "$scratch/taken/model/model.safetensors" \
    "$scratch/one/model/model.safetensors"
check "modules can be left out" train "$scratch/without" --from "$scratch/one/model" --set num_nextn_predict_layers=0 \
    --set train.steps=1 --quiet >/dev/null
check "and are" bash \
    -c "! grep -aq eh_proj '$scratch/without/model/model.safetensors' && grep -aq e_score_correction_bias '$scratch/without/model/model.safetensors'"
refuses "modules that a model lacks" 2 "num_nextn_predict_layers=1: found 1, expected up to 0 as in" train \
    "$scratch/none" --from "$scratch/without/model" --set num_nextn_predict_layers=1

# Two phases with the same numbers of YaRN, as V3 was extended.
extend() { "$program" train --from "$1" --data "$scratch/text.txt" --out "$2" --set train.batch_size=2 \
    --set train.steps=2 --set train.sample_every=0 --quiet "${@:3}" >/dev/null; }
check "a first phase" extend "$scratch/one/model" "$scratch/phase1" --set rope_scaling.factor=8 \
    --set train.sequence_length=64
check "a second phase" extend "$scratch/phase1/model" "$scratch/phase2" --set train.sequence_length=256
check "with V3's mscale in both" bash \
    -c "cat '$scratch/phase1/model/config.json' '$scratch/phase2/model/config.json' | tr -d ' \n' | grep -o '\"mscale\":1[.0]*,\"mscale_all_dim\":1[.0]*' | wc -l | grep -q 2"
check "and the positions of the whole extension" bash \
    -c "tr -d ' ' <'$scratch/phase2/model/config.json' | grep -q '\"max_position_embeddings\":256,'"
finish
