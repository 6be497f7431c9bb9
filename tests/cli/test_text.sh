#!/bin/sh
# Commands that read and write text: generate, eval; and info and bench, which need none.
. "$(dirname "$0")/lib.sh"
D=$DEEPSEEK

# ---- generate ----
check 'generate' 0 '.' '^prompt 4 tokens, .* tokens/s; generated [0-9]* tokens' $D generate "$TEXT" -p 'Once' -n 30
check 'generate -q' 0 '.' '' $D generate "$TEXT" -p 'Once' -n 30 -q
cp "$T/out" "$T/text"
expect 'generate: ends with a line end' [ "$(tail -c 1 "$T/text" | od -An -c | tr -d ' ')" = '\n' ]
check 'generate --threads 1' 0 '.' '' $D generate "$TEXT" -p 'Once' -n 30 -q --threads 1
expect 'generate --threads 1: the same' cmp -s "$T/text" "$T/out"
printf Once >"$T/prompt"
check 'generate --file' 0 '.' '' $D generate "$TEXT" --file "$T/prompt" -n 30 -q
expect 'generate --file: the same' cmp -s "$T/text" "$T/out"
check 'generate -p -' 0 '.' '' sh -c "$D generate $TEXT -p - -n 30 -q <$T/prompt"
expect 'generate -p -: the same' cmp -s "$T/text" "$T/out"
check 'generate --echo' 0 '^Once' '' $D generate "$TEXT" -p 'Once' -n 30 -q --echo
expect 'generate --echo: the prompt, then the same' [ "$(cat "$T/out")" = "Once$(cat "$T/text")" ]
check 'generate --json' 0 '^{"text": ".*", "ids": \[[0-9, ]*\], "stopped": "\(eos\|length\)"}$' '' $D generate "$TEXT" \
    -p 'Once' -n 30 -q --json
check 'an empty prompt' 0 '*' 'prompt 1 tokens' $D generate "$TEXT" -p '' -n 3
check 'a prompt with a character that the model lacks' 2 '' '^deepseek generate: .' $D generate "$TEXT" -p 'Ω' -n 3
check 'no prompt file' 1 '' 'nowhere.*No such file' $D generate "$TEXT" --file "$T/nowhere"
check 'no tokenizer' 1 '' 'tokenizer.json' $D generate "$MODEL" -p 'Once'
mkdir "$T/broken"
cp "$TEXT"/* "$T/broken"
echo '{' >"$T/broken/tokenizer.json"
check 'a broken tokenizer' 1 '' 'broken/tokenizer.json' $D generate "$T/broken" -p 'Once'

# Bytes: random weights give bytes that are no UTF-8. What appears is UTF-8 all the same, and never half a character.
mkdir "$T/bytes"
cp $MODEL/config.json $MODEL/model.safetensors tests/cli/data/bytes/* "$T/bytes"
for seed in 1 2 3; do
    check "bytes, seed $seed" 0 '.' '' $D generate "$T/bytes" -p 'é' -n 300 -q --echo --ignore-eos --temperature 2 \
        --top-p 1 --seed $seed
    if command -v iconv >/dev/null; then expect "bytes, seed $seed: UTF-8" iconv -f UTF-8 -t UTF-8 "$T/out" \
        -o /dev/null; fi
done
check 'a prompt with ids that the model lacks' 1 '' 'the tokenizer has id [0-9]*, expected at most 130' $D generate \
    "$T/bytes" -p "$(printf '\001')" -n 3

# A reader that leaves: the program stops at once, quietly.
{ timeout 300 $D generate "$TEXT" -p Once -n 1000000 --ignore-eos 2>"$T/err"; echo $? >"$T/code"; } | head -c 20 \
    >/dev/null
expect 'a reader that leaves: exit code' [ "$(cat "$T/code")" = 1 ]
expect 'a reader that leaves: quiet' [ "$(grep -vc warning "$T/err")" = 0 ]
if [ -c /dev/full ]; then
    timeout 300 $D generate "$TEXT" -p Once -n 1000000 --ignore-eos >/dev/full 2>"$T/err"
    expect 'a full disk: exit code' [ $? -eq 1 ]
    expect 'a full disk: message' grep -q 'standard output: No space left on device' "$T/err"
fi
# SIGTERM ends it with a message.
$D generate "$TEXT" -p Once -n 10000000 --ignore-eos >"$T/stream" 2>"$T/err" &
until_true [ -s "$T/stream" ]   # its first character: the handler is in place
kill -TERM $!
wait $!
expect 'SIGTERM: exit code' [ $? -eq 1 ]
rm -f "$T/stream"
expect 'SIGTERM: message' grep -q '^deepseek generate: interrupted$' "$T/err"
# A signal that comes twice at once, as from `timeout`, is one; a second one later ends the program by force.
$D generate "$TEXT" -p Once -n 10000000 --ignore-eos >"$T/stream" 2>"$T/err" &
until_true [ -s "$T/stream" ]
kill -TERM $!
kill -TERM $! 2>/dev/null
wait $!
expect 'SIGTERM twice at once: exit code' [ $? -eq 1 ]
rm -f "$T/stream"
# Also while it waits for the rest of the prompt: what is more than a pipe holds goes out only when the handler is in
# place.
mkfifo "$T/pipe"
{ head -c 200000 /dev/zero; : >"$T/waiting"; exec sleep 300; } >"$T/pipe" &
writer=$!
timeout 300 $D generate "$TEXT" -p - <"$T/pipe" 2>"$T/err" &
until_true [ -e "$T/waiting" ]
kill -TERM $!
wait $!
expect 'SIGTERM at the prompt: message' grep -q '^deepseek generate: interrupted$' "$T/err"
kill $writer
wait $writer 2>/dev/null

# ---- eval ----
awk 'BEGIN { for (i = 0; i < 200; i++) printf "The quick brown fox %d jumps over the lazy dog.\n", i }' >"$T/book.txt"
check 'eval' 0 '^loss  *[0-9.]*  *nats per token$' '' $D eval "$TEXT" --data "$T/book.txt" --context 64
check 'eval --json' 0 \
    '^{"loss": [0-9.]*, "perplexity": [0-9.]*, "bits_per_byte": [0-9.]*, "bits_per_token": [0-9.]*, "tokens": [0-9]*, "bytes": [0-9]*, "context": 64, ' '' $D eval "$TEXT" --data "$T/book.txt" --context 64 --json
cp "$T/out" "$T/json"
size=$(wc -c <"$T/book.txt")
expect 'eval: every token but the first' grep -q "\"tokens\": $((size - 1)), \"bytes\": $((size - 1))," "$T/json"
for how in '--batch 1' '--batch 7' '--threads 1'; do
    check "eval $how" 0 '.' '' $D eval "$TEXT" --data "$T/book.txt" --context 64 --json $how
    expect "eval $how: the same" cmp -s "$T/json" "$T/out"
done
check 'eval --held-out' 0 "\"tokens\": $((size / 10 - 1))," '' $D eval "$TEXT" --data "$T/book.txt" --context 64 \
    --json --held-out 0.1
check 'eval --held-out: too little' 1 '' \
    "book.txt: --held-out 0.0001 of $size tokens holds [01] out, expected at least 2$" $D eval "$TEXT" \
    --data "$T/book.txt" --held-out 0.0001
check 'eval of a folder' 0 '"tokens"' '' sh \
    -c "mkdir $T/books && cp $T/book.txt $T/books/a.txt && cp $T/book.txt $T/books/b.txt && $D eval $TEXT --data $T/books --json"
expect 'eval of a folder: an end of text between files' grep \
    -q "\"tokens\": $((2 * size)), \"bytes\": $((2 * size - 1))," "$T/out"
check 'eval: the context is too long' 2 '' '--context 5000: expected at most 4096' $D eval "$TEXT" \
    --data "$T/book.txt" --context 5000
check 'eval: no data' 1 '' 'nowhere' $D eval "$TEXT" --data "$T/nowhere"
: >"$T/nothing.txt"
check 'eval: empty data' 1 '' 'nothing.txt' $D eval "$TEXT" --data "$T/nothing.txt"
printf x >"$T/one.txt"
check 'eval: one token' 1 '' 'one.txt: found 1 token, expected at least 2' $D eval "$TEXT" --data "$T/one.txt"
check 'eval: two tokens' 0 '"tokens": 1, "bytes": 1, "context": 1' '' sh \
    -c "printf xy >$T/two.txt; $D eval $TEXT --data $T/two.txt --json"

# ---- what people give in the place of a model folder ----
mkdir -p "$T/run/checkpoints" "$T/fresh/checkpoints"
touch "$T/run/lock" "$T/fresh/lock"
cp -r "$TEXT" "$T/run/model"
echo '[[1, 2]]' >"$T/two.json"
given() { # MODEL PATTERN
    check "generate $1" 1 '' "$2" $D generate "$1" -p Once
    check "eval $1" 1 '' "$2" $D eval "$1" --data "$T/book.txt"
    check "logits $1" 1 '' "$2" $D logits "$1" --tokens "$T/two.json" -o "$T/never"
    check "grads $1" 1 '' "$2" $D grads "$1" --tokens "$T/two.json" -o "$T/never"
    check "train --from $1" 1 '' "$2" $D train tests/train/tiny.json --data "$T/book.txt" --from "$1" --out "$T/never"
}
given "$T/run" 'run: the folder of a training run, its model is .*/run/model$'
given "$T/run/" 'run/: the folder of a training run, its model is .*/run/model$'
given "$T/fresh" \
    'fresh: the folder of a training run that has not saved a model yet, expected a model folder (config.json, \*.safetensors)$'
given "$MODEL/model.safetensors" 'model.safetensors: a file, expected a model folder (config.json, \*.safetensors)$'
given configs/demo.json \
    'demo.json: a config and no model folder, expected a model folder (config.json, \*.safetensors)$'
check 'bench of a run' 1 '' 'its model is .*/run/model$' $D bench "$T/run"
expect 'nothing was written' [ ! -e "$T/never" ]

# ---- info: the official shapes, without a checkpoint ----
shape() { # HIDDEN FFN LAYERS HEADS KV
    echo "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"hidden_act\": \"silu\",
        \"hidden_size\": $1, \"intermediate_size\": $2, \"num_hidden_layers\": $3,
        \"num_attention_heads\": $4, \"num_key_value_heads\": $5, \"vocab_size\": 102400,
        \"max_position_embeddings\": 4096,
        \"rms_norm_eps\": 1e-6, \"rope_theta\": 10000.0,
        \"tie_word_embeddings\": false, \"torch_dtype\": \"bfloat16\"}"
}
shape 4096 11008 30 32 32 >"$T/7b.json"
shape 8192 22016 95 64 8 >"$T/67b.json"
check 'info 7B' 0 ' 6 910 365 696$' '' $D info "$T/7b.json"
check 'info 7B: layers' 0 '^  layers 0-29  *attention gqa: 32 heads on 32 key/value heads of 128; ffn dense: 11008$' \
    '' $D info "$T/7b.json"
check 'info 67B' 0 ' 67 425 001 472$' '' $D info "$T/67b.json"
check 'info 67B --json' 0 '"parameters": 67425001472,' '' $D info "$T/67b.json" --json --batch 2 --length 1024
expect 'info 67B: cache' grep -q '"fp32": 778240' "$T/out"
expect 'info 67B: gradients' grep -q '"gradients": 269700005888' "$T/out"
expect 'info 67B: moments' grep -q '"moments": 539400011776' "$T/out"
check 'info --set' 0 '"parameters": 55872,' '*' $D info "$MODEL" --json --set num_hidden_layers=1 --set vocab_size=100
check 'info --set of a wrong value' 2 '' '--set vocab_size=131.5: found 131.5, expected' $D info "$MODEL" \
    --set vocab_size=131.5
check 'info --set of nonsense' 2 '' '^deepseek info: ' $D info "$MODEL" --set hidden_size
check 'info of nothing' 1 '' 'nowhere' $D info "$T/nowhere"
check 'info of a text' 1 '' \
    'book.txt: not JSON, expected a model folder (config.json, \*.safetensors) or a config.json$' $D info "$T/book.txt"
check 'bench of weights' 1 '' 'model.safetensors: not JSON, expected a model folder' $D bench "$MODEL/model.safetensors"
printf '{"a": 1,}' >"$T/comma.json"
check 'info of broken JSON' 1 '' 'comma.json: line 1, column' $D info "$T/comma.json"
check 'info of an impossible config' 2 '' '^deepseek info: --set hidden_size=-4096: found -4096, expected' $D info \
    "$T/7b.json" --set hidden_size=-4096
check 'info of another activation' 1 '' '--set hidden_act=gelu: "gelu" is not implemented' $D info "$T/7b.json" \
    --set hidden_act=gelu
check 'info of an unknown key' 0 '*' 'warning: .*sparkle' $D info "$T/7b.json" --set sparkle=1

# ---- --set: what is wrong with it is not the file's ----
wrong_set() { # ASSIGNMENT MESSAGE
    check "train --set $1" 2 '' "^deepseek train: --set $1: $2" $D train tests/train/tiny.json --data "$T/book.txt" \
        --out "$T/never" --set "$1"
}
wrong_set train.steps=-1 'found -1, expected an integer from 1 to'
wrong_set train.steps=abc 'found "abc", expected an integer from 1 to'
wrong_set hidden_size=abc 'found "abc", expected an integer from 1 to'
wrong_set train.sequence_length=4096 'train.sequence_length 4096 is longer than max_position_embeddings 32'
wrong_set 'train.optimizer={"eps":-1}' 'train.optimizer.eps: found -1, expected a number above 0'
wrong_set vocab_size=1 'found 1, expected at least the tokenizer'
check 'train --set against a key of the file' 1 '' 'tiny.json: train.micro_batch_size: found 2, expected a divisor of batch_size 3 (with --set train.batch_size=3)$' \
    $D train tests/train/tiny.json --data "$T/book.txt" --out "$T/never" --set train.batch_size=3 --set train.seed=2
check 'train --set twice of one key' 2 '' '--set train.steps=0: found 0' $D train tests/train/tiny.json \
    --data "$T/book.txt" --out "$T/never" --set train.steps=1 --set train.steps=0
sed 's/"steps": 40/"steps": -1/' tests/train/tiny.json >"$T/wrong.json"
check 'a wrong value of the file' 1 '' 'wrong.json: train.steps: found -1' $D train "$T/wrong.json" \
    --data "$T/book.txt" --out "$T/never" --set train.seed=1

# ---- bench ----
# Measuring the limits takes a second or two, so the other form waits for the long tests.
check 'bench of a config' 0 '^decoding  *4  *300 ' '' $D bench "$MODEL/config.json" --prompt 8 --gen 4 --depth 0,300 \
    --repeat 1 -q
if [ "$TEST_LONG" ]; then check 'bench of a model' 0 '"depth": 16, "prefill": {"tokens": 8,' '' $D bench "$MODEL" \
    --prompt 8 --gen 4 --depth 16 --repeat 1 --json -q; fi
check 'bench without a vocabulary' 1 '' 'tiny.json: vocab_size is left to the tokenizer, expected a number' $D bench \
    tests/train/tiny.json
check 'bench of nothing' 1 '' 'nowhere' $D bench "$T/nowhere"

# ---- progress: a bar on a terminal once the work takes a second, none of it without one, nothing with --quiet ----
echo '[[1, 2, 3]]' >"$T/three.json"
long="$D generate $MODEL --tokens $T/three.json -n 10000000 --ignore-eos --threads 1"
timeout -s TERM 1.5 $long >/dev/null 2>"$T/err"
expect 'no bar without a terminal' [ "$(tr -cd '\r' <"$T/err" | wc -c)" -eq 0 ]
if script -qec true /dev/null >/dev/null 2>&1; then
    for seconds in 2.5 10 40; do   # longer where the machine is busy
        script -qec "timeout --foreground -s TERM $seconds $long >/dev/null" /dev/null >"$T/terminal" </dev/null
        if grep -q '%  .* left' "$T/terminal"; then break; fi
    done
    expect 'a bar on a terminal' grep -q 'generate \[#*-*\]  *[0-9]*%  .* tokens/s  .* left' "$T/terminal"
    script -qec "timeout --foreground -s TERM 1.5 $long -q >/dev/null" /dev/null >"$T/terminal" </dev/null
    expect 'no bar with --quiet' [ "$(grep -c '\[#*-*\]' "$T/terminal")" = 0 ]
fi
finish
