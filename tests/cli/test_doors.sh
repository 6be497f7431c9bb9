#!/bin/sh
# The doors logits and generate --tokens: the same bytes however they are computed, and bad files refused with the place
# named.
. "$(dirname "$0")/lib.sh"
D=$DEEPSEEK

cat >"$T/ragged.json" <<'END'
[[5], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17], [7, 8, 9], [130, 0, 130, 0, 130, 0, 130, 0, 130],
 [1, 2], [3, 4, 5, 6, 7], [17, 17, 17, 17]]
END
echo '[[130, 0, 130, 0, 130, 0, 130, 0, 130]]' >"$T/alone.json"

# ---- logits ----
for compute in fp32 bf16; do
    check "logits $compute" 0 '' '' $D logits $MODEL --tokens "$T/ragged.json" --compute $compute \
        -o "$T/$compute.safetensors"
    for how in '--chunk 1' '--chunk 3' '--chunk 7' '--chunk 64' '--threads 1' '--threads 2' '--threads 3 --chunk 2' \
        '-q'; do
        check "logits $compute $how" 0 '' '' $D logits $MODEL --tokens "$T/ragged.json" --compute $compute $how \
            -o "$T/other.safetensors"
        expect "logits $compute $how: the same bytes" cmp -s "$T/$compute.safetensors" "$T/other.safetensors"
    done
done
expect 'the two types differ' [ "$(cksum <"$T/fp32.safetensors")" != "$(cksum <"$T/bf16.safetensors")" ]
check 'logits without --compute' 0 '' '' $D logits $MODEL --tokens "$T/ragged.json" -o "$T/other.safetensors"
expect 'logits without --compute: fp32' cmp -s "$T/fp32.safetensors" "$T/other.safetensors"
# The cache's type is one of its own: it changes the bits, and nothing else does.
check 'logits --cache-type of --compute' 0 '' '' $D logits $MODEL --tokens "$T/ragged.json" --cache-type fp32 \
    -o "$T/other.safetensors"
expect 'logits --cache-type of --compute: as without it' cmp -s "$T/fp32.safetensors" "$T/other.safetensors"
check 'logits --cache-type bf16' 0 '' '' $D logits $MODEL --tokens "$T/ragged.json" --cache-type bf16 \
    -o "$T/cache.safetensors"
expect 'logits --cache-type bf16: other bits' [ "$(cksum <"$T/cache.safetensors")" \
    != "$(cksum <"$T/fp32.safetensors")" ]
expect 'logits --cache-type bf16: not those of --compute bf16' [ "$(cksum <"$T/cache.safetensors")" \
    != "$(cksum <"$T/bf16.safetensors")" ]
for how in '--chunk 1' '--chunk 3' '--threads 1' '--prefill absorbed'; do
    check "logits --cache-type bf16 $how" 0 '' '' $D logits $MODEL --tokens "$T/ragged.json" --cache-type bf16 $how \
        -o "$T/other.safetensors"
    expect "logits --cache-type bf16 $how: the same bytes" cmp -s "$T/cache.safetensors" "$T/other.safetensors"
done
# What grouped-query attention cannot have is refused before any work: nowhere.json is not looked for.
for command in "logits --tokens $T/nowhere.json -o $T/never" "generate --tokens $T/nowhere.json" 'generate -p a' \
    'chat' "eval --data $T/nowhere.txt" 'bench --prompt 4 --gen 1'; do
    check "$command --cache-type fp8" 2 '' "^deepseek ${command%% *}: --cache-type: found fp8, expected fp32 or bf16: layer 0 of this model (llama) has no multi-head latent attention " \
        $D ${command%% *} $MODEL ${command#"${command%% *}"} --cache-type fp8
    check "$command --prefill expanded" 2 '' "^deepseek ${command%% *}: --prefill: found expanded, expected absorbed: layer 0 of this model (llama) has no multi-head latent attention " \
        $D ${command%% *} $MODEL ${command#"${command%% *}"} --prefill expanded
done
# Row 3 of the batch, with 9 of 17 positions, alone: the header has a whole number of 8-byte words, the rest is data.
check 'logits of one array' 0 '' '' $D logits $MODEL --tokens "$T/alone.json" -o "$T/alone.safetensors"
row=$((17 * 131 * 4)) part=$((9 * 131 * 4))
size=$(wc -c <"$T/fp32.safetensors") alone=$(wc -c <"$T/alone.safetensors")
tail -c $((4 * row)) "$T/fp32.safetensors" | head -c $part >"$T/in_batch"
tail -c $part "$T/alone.safetensors" >"$T/by_itself"
expect 'alone and in a batch: the same bits' cmp -s "$T/in_batch" "$T/by_itself"
expect 'the header is followed by the tensor' [ $((size - 7 * row)) -lt 400 ] && expect 'the same, alone' \
    [ $((alone - part)) -lt 400 ]
tail -c $((4 * row)) "$T/fp32.safetensors" | head -c $row | tail -c $((row - part)) | tr -d '\0' >"$T/rest"
expect 'zeros past the end of an array' [ ! -s "$T/rest" ]

# ---- token files ----
bad_tokens() { # NAME JSON MESSAGE
    printf '%s' "$2" >"$T/bad.json"
    check "logits: $1" 1 '' "^deepseek logits: .*bad.json.*$3" $D logits $MODEL --tokens "$T/bad.json" -o "$T/never"
    check "generate: $1" 1 '' "^deepseek generate: .*bad.json.*$3" $D generate $MODEL --tokens "$T/bad.json" -n 2
    check "grads: $1" 1 '' "^deepseek grads: .*bad.json.*$3" $D grads $MODEL --tokens "$T/bad.json" -o "$T/never"
    expect "$1: nothing written" [ ! -e "$T/never" ]
}
bad_tokens 'an id too large' '[[1, 2], [3, 131]]' ': \[1\]\[1\]: found token id 131, expected 0 to 130'
bad_tokens 'a negative id' '[[-1]]' ': \[0\]\[0\]: found token id -1, expected 0 to 130'
bad_tokens 'an id beyond 32 bits' '[[1, 4294967296]]' '\[0\]\[1\]: found token id 4294967296'
bad_tokens 'a fraction' '[[1, 2.0]]' '\[0\]\[1\]: found a number with a fraction, expected a token id'
bad_tokens 'a string' '[["1"]]' '\[0\]\[0\]: found a string, expected a token id'
bad_tokens 'flat' '[1, 2, 3]' '\[0\]: found an integer, expected an array of token ids'
bad_tokens 'nested too deep' '[[[1, 2]]]' '\[0\]\[0\]: found an array, expected a token id'
bad_tokens 'no arrays' '[]' 'found an empty array, expected at least one array'
bad_tokens 'an empty array' '[[1], []]' '\[1\]: found an empty array, expected at least one token id'
bad_tokens 'an object' '{"tokens": [[1]]}' 'found an object, expected an array of arrays'
bad_tokens 'cut off' '[[1, 2' '*'
bad_tokens 'an empty file' '' '*'
bad_tokens 'something behind' '[[1]] [[2]]' '*'
bad_tokens 'no JSON' 'tokens' '*'
echo '[[[1, 2]], [[3, 200]]]' >"$T/steps.json"
echo '{}' >"$T/settings.json"
check 'steps: an id too large' 1 '' 'steps.json: \[1\]\[0\]\[1\]: found token id 200' $D steps $MODEL \
    --tokens "$T/steps.json" --settings "$T/settings.json" -o "$T/never"
echo '[[1, 2]]' >"$T/steps.json"
check 'steps: one level too few' 1 '' 'steps.json: \[0\]\[0\]: found an integer, expected an array' $D steps $MODEL \
    --tokens "$T/steps.json" --settings "$T/settings.json" -o "$T/never"
check 'no token file' 1 '' 'nowhere.json.*No such file' $D logits $MODEL --tokens "$T/nowhere.json" -o "$T/never"
check 'a folder for a token file' 1 '' '*' $D logits $MODEL --tokens "$T" -o "$T/never"

# ---- models ----
for command in "logits M --tokens $T/ragged.json -o $T/never" "generate M --tokens $T/ragged.json -n 1" \
    "grads M --tokens $T/alone.json -o $T/never"; do
    name=${command%% *}
    run() { $D $(echo "$command" | sed "s#M#$1#"); }
    check "$name: no such model" 1 '' "^deepseek $name: .*$T/nowhere" run "$T/nowhere"
    check "$name: a file for a model" 1 '' "^deepseek $name: .*ragged.json" run "$T/ragged.json"
    mkdir -p "$T/empty"
    check "$name: an empty folder" 1 '' "^deepseek $name: .*$T/empty/config.json" run "$T/empty"
    mkdir -p "$T/bare"
    cp $MODEL/config.json "$T/bare"
    check "$name: no weights" 1 '' "^deepseek $name: .*$T/bare" run "$T/bare"
    mkdir -p "$T/cut"
    cp $MODEL/config.json "$T/cut"
    head -c 5000 $MODEL/model.safetensors >"$T/cut/model.safetensors"
    check "$name: truncated weights" 1 '' "^deepseek $name: .*$T/cut/model.safetensors" run "$T/cut"
    mkdir -p "$T/integers" "$T/lacking"
    cp $MODEL/config.json "$T/integers"
    cp $MODEL/config.json "$T/lacking"
    LC_ALL=C sed 's/"model.norm.weight":{"dtype":"BF16",/"model.norm.weight":{"dtype":"I16" ,/' \
        $MODEL/model.safetensors >"$T/integers/model.safetensors"
    check "$name: weights of another type" 1 '' \
        'integers/model.safetensors: tensor model.norm.weight: found .*I16.*, expected dtype F32, BF16 or F16$' run \
        "$T/integers"
    LC_ALL=C sed 's/"model.norm.weight"/"model.norm.wright"/' $MODEL/model.safetensors >"$T/lacking/model.safetensors"
    check "$name: a tensor is missing" 1 '' \
        'lacking: 1 tensor that config.json asks for is missing: model.norm.weight$' run "$T/lacking"
    mkdir -p "$T/other"
    sed 's/"hidden_size": 64/"hidden_size": 128/' $MODEL/config.json >"$T/other/config.json"
    cp $MODEL/model.safetensors "$T/other"
    check "$name: weights of another shape" 1 '' 'found .*, expected ' run "$T/other"
    mkdir -p "$T/strange"
    sed 's/"model_type": "llama"/"model_type": "alpaca"/; s/LlamaForCausalLM/Alpaca/' $MODEL/config.json \
        >"$T/strange/config.json"
    check "$name: an unknown architecture" 1 '' 'alpaca' run "$T/strange"
done
expect 'nothing was written' [ ! -e "$T/never" ]

# ---- where the result goes ----
check 'no such folder' 1 '' "^deepseek logits: $T/none/x: the folder $T/none: No such file" $D logits $MODEL \
    --tokens "$T/alone.json" -o "$T/none/x"
check 'an empty name' 1 '' '^deepseek logits: the name of the file to write is empty$' $D logits $MODEL \
    --tokens "$T/alone.json" -o ''
check 'a folder' 1 '' 'is a folder' $D logits $MODEL --tokens "$T/alone.json" -o "$T"
check 'a file as a folder' 1 '' 'alone.json' $D logits $MODEL --tokens "$T/alone.json" -o "$T/alone.json/x"
if [ -c /dev/full ]; then check 'a device' 1 '' '/dev/full: is not a regular file' $D logits $MODEL \
    --tokens "$T/alone.json" -o /dev/full; fi
if [ "$(id -u)" -ne 0 ]; then
    mkdir "$T/locked"
    chmod 555 "$T/locked"
    check 'a read-only folder' 1 '' 'cannot be written: Permission denied' $D logits $MODEL --tokens "$T/alone.json" \
        -o "$T/locked/x"
elif [ -d /proc/self ]; then
    check 'a folder that takes no files' 1 '' '/proc/x' $D logits $MODEL --tokens "$T/alone.json" -o /proc/x
fi
# A full disk, in the form of the largest file that this process may write: the old file stays, nothing else does.
mkdir "$T/full"
echo old >"$T/full/x"
for command in "logits $MODEL --tokens $T/ragged.json -o $T/full/x" \
    "grads $MODEL --tokens $T/alone.json -o $T/full/x"; do
    check "${command%% *}: no space" 1 '' "^deepseek ${command%% *}: .*$T/full/x.*File too large" sh \
        -c "ulimit -f 8; $D $command"
    expect "${command%% *}: the old file stays" [ "$(cat "$T/full/x")" = old ]
    expect "${command%% *}: nothing is left behind" [ "$(ls -A "$T/full")" = x ]
done
check 'an existing file is replaced' 0 '' '' $D logits $MODEL --tokens "$T/ragged.json" -o "$T/full/x"
expect 'an existing file is replaced: by the result' cmp -s "$T/fp32.safetensors" "$T/full/x"

# ---- generate --tokens ----
greedy='--temperature 0 --ignore-eos --json'
check 'greedy' 0 '^\[\[[0-9, ]*\],$' 'generated 35 tokens' $D generate $MODEL --tokens "$T/ragged.json" -n 5 $greedy
cp "$T/out" "$T/batch"
for how in '--threads 1' '--threads 3' '--seed 9' '--top-p 0.3'; do
    check "greedy $how" 0 '*' '' $D generate $MODEL --tokens "$T/ragged.json" -n 5 $greedy $how -q
    expect "greedy $how: the same ids" cmp -s "$T/batch" "$T/out"
done
check 'greedy, alone' 0 '*' '' $D generate $MODEL --tokens "$T/alone.json" -n 5 $greedy -q
expect 'greedy, alone: as in the batch' [ "$(sed -n 4p "$T/batch" | tr -d ' []\n' | sed 's/,$//')" \
    = "$(tr -d ' []\n' <"$T/out")" ]
check 'sampled' 0 '*' '' $D generate $MODEL --tokens "$T/ragged.json" -n 5 --temperature 1 --seed 3 --ignore-eos -q
cp "$T/out" "$T/sampled"
expect 'sampled: not greedy' [ "$(cat "$T/sampled")" != "$(cat "$T/batch")" ]
check 'sampled again' 0 '*' '' $D generate $MODEL --tokens "$T/ragged.json" -n 5 --temperature 1 --seed 3 \
    --ignore-eos -q --threads 1
expect 'sampled again: the same' cmp -s "$T/sampled" "$T/out"
check 'another seed' 0 '*' '' $D generate $MODEL --tokens "$T/ragged.json" -n 5 --temperature 1 --seed 4 --ignore-eos -q
expect 'another seed: other ids' [ "$(cat "$T/sampled")" != "$(cat "$T/out")" ]
# The end-of-text token of this model is 1: ids after it must not come.
check 'stops at the end of text' 0 '*' '' $D generate $MODEL --tokens "$T/ragged.json" -n 400 --temperature 2 \
    --top-p 1 -q
expect 'stops at the end of text: somewhere' grep -q '[^0-9]1\]' "$T/out"
expect 'stops at the end of text: nothing follows' [ "$(grep -c '[^0-9]1, ' "$T/out")" = 0 ]
# Past the context: with its last half.
mkdir "$T/short"
sed 's/"max_position_embeddings": [0-9]*/"max_position_embeddings": 8/' $MODEL/config.json >"$T/short/config.json"
cp $MODEL/model.safetensors "$T/short"
echo '[[1, 2, 3], [4, 5, 6, 7, 8, 9, 10, 11]]' >"$T/eight.json"
check 'a full context' 0 '*' 'warning: the context of 8 tokens is full; going on with its last 4' $D generate \
    "$T/short" --tokens "$T/eight.json" -n 20 $greedy
expect 'a full context: all tokens' [ "$(tr -cd , <"$T/out" | wc -c)" -eq 39 ]
check 'a prompt longer than the context' 1 '' 'prompt 1 has 17 tokens, expected at most 8' $D generate "$T/short" \
    --tokens "$T/ragged.json" -n 1
finish
