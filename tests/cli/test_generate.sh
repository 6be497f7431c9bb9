#!/bin/sh
# generate beyond its first steps (test_text.sh): sampling flags, stop strings, samples, log-probabilities, defaults,
# beginnings and ends.
. "$(dirname "$0")/lib.sh"
D=$DEEPSEEK
G="$D generate $TEXT -q"

# ---- the text to compare with: greedy, without an end ----
$G -p Once -n 60 --temperature 0 --ignore-eos >"$T/greedy"
size=$(wc -m <"$T/greedy")
expect 'greedy text' [ "$size" -gt 30 ]
check 'top-k 1 is greedy' 0 '.' '' $G -p Once -n 60 --top-k 1 --top-p 1 --temperature 1.5 --ignore-eos
expect 'top-k 1: the same' cmp -s "$T/greedy" "$T/out"
check 'min-p 1 is greedy' 0 '.' '' $G -p Once -n 60 --min-p 1 --top-p 1 --temperature 1 --ignore-eos
expect 'min-p 1: the same' cmp -s "$T/greedy" "$T/out"
check 'top-k beyond the vocabulary is none' 0 '.' '' sh \
    -c "$G -p Once -n 60 --top-k 100000 --seed 3 >$T/a; $G -p Once -n 60 --seed 3 >$T/b; cat $T/a"
expect 'top-k beyond the vocabulary: the same' cmp -s "$T/a" "$T/b"
for penalty in '--repetition-penalty 3' '--presence-penalty 3' '--frequency-penalty 2'; do
    check "$penalty" 0 '.' '' $G -p Once -n 60 --temperature 0 --ignore-eos $penalty
    expect "$penalty: another text" [ "$(cat "$T/out")" != "$(cat "$T/greedy")" ]
done
check 'no penalty' 0 '.' '' $G -p Once -n 60 --temperature 0 --ignore-eos --repetition-penalty 1 --presence-penalty 0 \
    --frequency-penalty 0
expect 'no penalty: the same' cmp -s "$T/greedy" "$T/out"

# ---- logit bias: by id, by text, more than once ----
check '--logit-bias of a text' 0 '^aaaaa$' '' $G -p Once -n 5 --logit-bias a=1000
$D generate "$TEXT" -q -p Once -n 1 --logit-bias a=1000 --json >"$T/json"
id=$(sed 's/.*"ids": \[\([0-9]*\)\].*/\1/' "$T/json")
check '--logit-bias of an id' 0 '^aaaaa$' '' $G -p Once -n 5 --logit-bias "$id=1000"
check '--logit-bias, two of them' 0 '^[ab]*$' '' $G -p Once -n 30 --logit-bias a=1000 --logit-bias b=1000 --top-p 1 \
    --temperature 100
check '--logit-bias -inf' 0 '^bbbbb$' '' $G -p Once -n 5 --logit-bias a=-inf --logit-bias b=1000
check '--logit-bias with an escape' 0 '^x$' '' $G -p Once -n 1 --logit-bias '\n=-inf' --logit-bias x=100
check '--logit-bias without =' 2 '' '--logit-bias: found `a`, expected ID=BIAS or TOKEN=BIAS' $G -p Once --logit-bias a
check '--logit-bias of nothing' 2 '' '--logit-bias: found `=1`, expected ID=BIAS or TOKEN=BIAS' $G -p Once \
    --logit-bias =1
check '--logit-bias of no number' 2 '' '--logit-bias: found `much`, expected a number from -10000 to 10000' $G -p Once \
    --logit-bias a=much
check '--logit-bias too large' 2 '' '--logit-bias: found `1e9`' $G -p Once --logit-bias a=1e9
check '--logit-bias of an id beyond the vocabulary' 2 '' \
    '--logit-bias: found `131`, expected an integer from 0 to 130' $G -p Once --logit-bias 131=1
check '--logit-bias of several tokens' 2 '' '--logit-bias: found `ab`, which is 2 tokens' $G -p Once --logit-bias ab=1
check '--logit-bias twice of one token' 2 '' '--logit-bias: found `a=1` and `.*=2` for token' $G -p Once \
    --logit-bias a=1 --logit-bias "$id=2"

# ---- stop strings ----
text=$(cat "$T/greedy")
stop=$(printf %s "$text" | cut -c 11-13)   # characters 11 to 13
printf '%s\n' "${text%%"$stop"*}" >"$T/expected"
check '--stop' 0 '.' '' $G -p Once -n 60 --temperature 0 --ignore-eos --stop never-seen \
    --stop "$(printf %s "$stop" | sed 's/\\/\\\\/g')"
expect '--stop: the text before it' cmp -s "$T/expected" "$T/out"
check '--stop --json' 0 '"stopped": "stop"}$' '' $G -p Once -n 60 --temperature 0 \
    --ignore-eos --json --stop "$(printf %s "$stop" | sed 's/\\/\\\\/g')"
check '--stop: line ends' 0 '^{"text": "", "ids": \[\([0-9]*\), \1, \1\], "stopped": "stop"}$' '' $G -p Once -n 9 \
    --logit-bias '\n=1000' --stop '\n\n\n' --json
check '--stop of the first character' 0 '^{"text": "", "ids": \[[0-9]*\], "stopped": "stop"}$' '' $G -p Once -n 9 \
    --logit-bias a=100 --stop a --json
check '--stop: empty' 2 '' '--stop: found an empty text, expected 1 to 4096 bytes' $G -p Once --stop ''
check '--stop: huge' 2 '' '--stop: found a text of 4097 bytes, expected 1 to 4096 bytes' $G -p Once \
    --stop "$(head -c 4097 /dev/zero | tr '\0' x)"
check '--stop: an unknown escape' 2 '' '--stop: found `a\\s`, whose backslash begins no known escape; expected' $G \
    -p Once --stop 'a\s'
check '--stop: half an escape' 2 '' '--stop: found `a\\`, whose backslash ends it; expected' $G -p Once --stop 'a\'
many=$(i=0; while [ $i -lt 17 ]; do printf ' --stop x%d' $i; i=$((i + 1)); done)
check '--stop: too many' 2 '' '--stop: found 17 of them, expected at most 16' $G -p Once $many
check '--stop: ill-formed' 0 '*' 'warning: --stop holds 1 ill-formed UTF-8 sequence, read as U+FFFD' $D generate \
    "$TEXT" -p Once -n 3 --stop "$(printf 'x\377')"

# ---- several samples: each is what it would be alone ----
$G -p Once -n 20 --seed 5 >"$T/one"
check '--samples' 0 '^--- sample 3 of 3$' '' $G -p Once -n 20 --seed 5 --samples 3
expect '--samples: the first is the one without' [ "$(sed -n '2,/^--- sample 2/p' "$T/out" | sed '$d')" \
    = "$(cat "$T/one")" ]
cp "$T/out" "$T/three"
check '--samples 2' 0 '.' '' $G -p Once -n 20 --seed 5 --samples 2
expect '--samples: more of them change none' [ "$(sed '/^--- /d' "$T/out")" \
    = "$(sed '/^--- sample 3/,$d; /^--- /d' "$T/three")" ]
check '--samples --json' 0 '^\[{"text": "' '' $G -p Once -n 20 --seed 5 --samples 3 --json
expect '--samples --json: one object each' [ "$(grep -c '"stopped"' "$T/out")" = 3 ]
expect '--samples: different texts' [ "$(sort -u "$T/out" | grep -c stopped)" = 3 ]
check '--samples: echo' 0 '.' '' $G -p Once -n 20 --samples 3 --echo
expect '--samples: the prompt before each' [ "$(grep -c '^Once' "$T/out")" = 3 ]

# ---- log-probabilities ----
check '--logprobs' 0 '^ logprob      id  token | most probable$' '' $G -p Once -n 8 --ignore-eos --logprobs 2
expect '--logprobs: a row for each token' [ "$(grep -c '^ *-[0-9.]*  *[0-9]*  .* | -[0-9.]* .*, -[0-9.]* ' "$T/out")" \
    = 8 ]
check '--logprobs 0' 0 '^ logprob      id  token$' '' $G -p Once -n 8 --logprobs 0
check '--logprobs --json' 0 \
    '"logprobs": \[{"id": [0-9]*, "token": .*, "logprob": -[0-9.]*, "top": \[{"id": [0-9]*, "token": .*, "logprob": -[0-9.]*}\]}, {' '' $G -p Once -n 8 --json --logprobs 1
if command -v python3 >/dev/null; then
    expect '--logprobs --json: greedy tokens are the most probable' python3 -c '
import json, sys
found = json.loads(sys.stdin.read())
assert len(found["logprobs"]) == len(found["ids"]) == 8
for id, row in zip(found["ids"], found["logprobs"]):
    # padding of the vocabulary is never chosen
    defined = [entry for entry in row["top"] if entry["token"] is not None]
    assert row["id"] == id == defined[0]["id"] and row["logprob"] == defined[0]["logprob"] and len(row["top"]) == 20
    assert all(a["logprob"] >= b["logprob"] for a, b in zip(row["top"], row["top"][1:]))
' <<END
$($G -p Once -n 8 --temperature 0 --ignore-eos --json --logprobs 20)
END
fi
check '--json --echo' 0 '^{"text": "Once' '' $G -p Once -n 8 --json --echo

# ---- where the prompt comes from ----
check 'a pipe' 0 '.' '' sh -c "printf Once | $G -n 60 --temperature 0 --ignore-eos"
expect 'a pipe: the same' cmp -s "$T/greedy" "$T/out"
printf Once >"$T/prompt"
check 'a file on standard input' 0 '.' '' sh -c "$G -n 60 --temperature 0 --ignore-eos <$T/prompt"
expect 'a file on standard input: the same' cmp -s "$T/greedy" "$T/out"
check 'nothing on standard input' 2 '' 'give --prompt, --file or --tokens' sh -c "$G </dev/null"
check 'a prompt that is too long' 1 '' \
    '^deepseek generate: the prompt has 4097 tokens, expected at most 4096 (max_position_embeddings)$' $G \
    -p "$(head -c 4097 /dev/zero | tr '\0' a)"
check 'a prompt that fills the context' 0 '.' '' $G -p "$(head -c 4096 /dev/zero | tr '\0' a)" -n 1 --ignore-eos
mkdir "$T/bytes"
cp $MODEL/config.json $MODEL/model.safetensors tests/cli/data/bytes/* "$T/bytes"
# a byte of its own, whose id this model lacks
check 'bytes take ill-formed UTF-8' 1 '' 'the tokenizer has id' $D generate "$T/bytes" -p "$(printf '\377')" -n 1
mkdir "$T/repaired"
cp "$TEXT"/* "$T/repaired"
sed 's/"ü"/"\xEF\xBF\xBD"/' "$TEXT/tokenizer.json" >"$T/repaired/tokenizer.json"
check 'a prompt of ill-formed UTF-8' 0 "^$(printf 'O\357\277\275n\357\277\275\357\277\275')" 'warning: the prompt holds 3 ill-formed UTF-8 sequences, read as U+FFFD$' \
    $D generate "$T/repaired" -p "$(printf 'O\377n\302\303')" -n 3 --echo
check 'a prompt of ill-formed UTF-8: one warning' 0 '*' '*' $D generate "$T/repaired" -p "$(printf 'O\377n\302\303')" \
    -n 3 --samples 3
expect 'a prompt of ill-formed UTF-8: one line' [ "$(grep -c warning "$T/err")" = 1 ]
unknown='the character U+03A9 "Ω" is not in the tokenizer.s vocabulary'
printf 'OΩ' >"$T/strange"
check 'a character that the tokenizer lacks' 2 '' "^deepseek generate: --prompt: byte 1: $unknown" $G -p 'OΩ'
check 'a character that the tokenizer lacks: a file' 1 '' "strange: byte 1: $unknown$" $G -f "$T/strange"
check 'a character that the tokenizer lacks: a pipe' 1 '' "standard input: byte 1: $unknown$" sh -c "$G <$T/strange"
ill='found ill-formed UTF-8, which is read as U+FFFD, and that is not in'
check 'ill-formed UTF-8 where U+FFFD is lacking' 2 '' "--prompt: byte 2: $ill" $G -p "$(printf 'On\377')"
printf '\302x' >"$T/strange"
check 'ill-formed UTF-8 where U+FFFD is lacking: a file' 1 '' "strange: byte 0: $ill" $G -f "$T/strange"
check 'a folder as a prompt' 1 '' "$T" $G -f "$T"
mkfifo "$T/fifo"
# longer where the machine is busy: before the handler is in place the signal ends it at once
for seconds in 0.5 3 30; do
    timeout --preserve-status -s INT $seconds $G -f "$T/fifo" >"$T/out" 2>"$T/err"
    [ $? -eq 1 ] && break
done
expect 'a FIFO without a writer can be interrupted' grep -q interrupted "$T/err"
check 'a FIFO' 0 '.' '' sh -c "printf Once >$T/fifo & $G -f $T/fifo -n 60 --temperature 0 --ignore-eos"
expect 'a FIFO: the same' cmp -s "$T/greedy" "$T/out"
for option in '--samples 2' '--logprobs 1' --echo --special '--stop x'; do
    check "--tokens with $option" 2 '' "${option%% *} is for texts, not for --tokens" $D generate "$MODEL" \
        --tokens "$T/none.json" $option
done
check '--tokens with a bias by text' 2 '' 'needs a tokenizer' sh \
    -c "echo '[[1]]' >$T/one.json; $D generate $MODEL --tokens $T/one.json --logit-bias a=1"
check '--tokens with a bias by id' 0 '^\[\[7, 7, 7\]\]$' '*' $D generate "$MODEL" --tokens "$T/one.json" \
    --logit-bias 7=1000 -n 3

# ---- exactly one BOS; special tokens of the prompt ----
mkdir "$T/bos"
cp "$TEXT"/* "$T/bos"
printf '{"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "add_bos_token": true}' \
    >"$T/bos/tokenizer_config.json"
check 'no BOS unless asked for' 0 '*' 'prompt 4 tokens' $D generate "$TEXT" -p Once -n 2
check 'a BOS where asked for' 0 '*' 'prompt 5 tokens' $D generate "$T/bos" -p Once -n 2
check 'a BOS of an empty prompt' 0 '*' 'prompt 1 tokens' $D generate "$T/bos" -p '' -n 2
check 'one BOS, not two' 0 '*' 'prompt 5 tokens' $D generate "$T/bos" -p '<|endoftext|>Once' -n 2 --special
full='warning: the context of 16 tokens is full; going on with'
for model in bos characters; do
    mkdir "$T/short-$model"
    cp "$T/$model"/* "$T/short-$model"
    sed 's/"max_position_embeddings": 4096/"max_position_embeddings": 16/' "$T/$model/config.json" \
        >"$T/short-$model/config.json"
done
check 'a full context' 0 '.' "$full its last 8$" $D generate "$T/short-characters" -p Once -n 40 --ignore-eos
check 'a full context keeps the BOS' 0 '.' "$full the token that begins the text and its last 7$" $D generate \
    "$T/short-bos" -p Once -n 40 --ignore-eos
check 'a full context keeps the BOS: chat too' 0 '.' '*' sh \
    -c "echo Once | $D chat $T/short-bos -n 40 --logit-bias 106=-inf --logit-bias 1=-inf -q"
$D generate "$T/short-bos" -q -p Once -n 40 --logit-bias 106=-inf --logit-bias 1=-inf >"$T/kept"
expect 'a full context keeps the BOS: as chat does' cmp -s "$T/kept" "$T/out"
check 'special tokens are text' 0 '*' 'prompt 17 tokens' $D generate "$TEXT" -p '<|endoftext|>Once' -n 2
check '--special' 0 '*' 'prompt 5 tokens' $D generate "$TEXT" -p '<|endoftext|>Once' -n 2 --special

# ---- generation_config.json: sampling values and ends ----
mkdir "$T/defaults"
cp "$TEXT"/* "$T/defaults"
echo '{"do_sample": false}' >"$T/defaults/generation_config.json"
check 'do_sample false is greedy' 0 '.' '' $D generate "$T/defaults" -q -p Once -n 60 --ignore-eos
expect 'do_sample false: the same' cmp -s "$T/greedy" "$T/out"
echo '{"temperature": 50, "top_k": 1}' >"$T/defaults/generation_config.json"
check 'top_k of the file' 0 '.' '' $D generate "$T/defaults" -q -p Once -n 60 --ignore-eos
expect 'top_k of the file: the same' cmp -s "$T/greedy" "$T/out"
check 'a flag wins over the file' 0 '.' '' $D generate "$T/defaults" -q -p Once -n 60 --ignore-eos --top-k 0
expect 'a flag wins over the file: another text' [ "$(cat "$T/out")" != "$text" ]
printf '{"do_sample": false, "eos_token_id": [5, %s, 6]}' "$id" >"$T/defaults/generation_config.json"
check 'every EOS of the file' 0 "^{\"text\": \"\", \"ids\": \[$id\], \"stopped\": \"eos\"}$" '' $D generate \
    "$T/defaults" -q -p Once -n 60 --logit-bias a=1000 --json
check '--ignore-eos' 0 '^{"text": "aaa", "ids": .*, "stopped": "length"}$' '' $D generate "$T/defaults" -q -p Once \
    -n 3 --logit-bias a=1000 --json --ignore-eos
echo '{"temperature": "hot"}' >"$T/defaults/generation_config.json"
check 'a broken generation_config.json' 1 '' 'defaults/generation_config.json: temperature: found no number' $D \
    generate "$T/defaults" -p Once
finish
