#!/bin/sh
# eval: kinds of data, overlapping windows, the token cache, what is refused. (test_eval.py compares the figures with an
# independent computation.)
. "$(dirname "$0")/lib.sh"
D=$DEEPSEEK

for i in 1 2 3 4 5 6 7 8; do printf 'The quick brown fox jumps over the lazy dog, %d times.\n' $i; done >"$T/book.txt"
size=$(wc -c <"$T/book.txt")
sed 's/.*/{"body": "&"}/' "$T/book.txt" >"$T/lines.jsonl"
check 'a text' 0 '^bytes  *[0-9]' '' "$D" eval "$TEXT" --data "$T/book.txt" --context 64
expect 'the loss by position' grep -q '^32 - 63  *[0-9.]* .* tokens$' "$T/out"
check 'overlapping windows' 0 "in windows of 64 that begin every 16$" '' "$D" eval "$TEXT" --data "$T/book.txt" \
    --context 64 --stride 16
check 'a stride as long as the context changes nothing' 0 "\"tokens\": $((size - 1)), \"bytes\": $((size - 1)), \"context\": 64, \"stride\": 64, \"documents\": 1, " '' \
    "$D" eval "$TEXT" --data "$T/book.txt" --context 64 --stride 64 --json
cp "$T/out" "$T/json"
check 'nor does no stride' 0 '.' '' "$D" eval "$TEXT" --data "$T/book.txt" --context 64 --json
expect 'the same' cmp -s "$T/out" "$T/json"
for how in '--batch 1' '--threads 1' '--threads 2' "--cache $T/other"; do
    check "overlapping windows $how" 0 '.' '' "$D" eval "$TEXT" --data "$T/book.txt" --context 64 --stride 10 \
        --json $how
    [ "$how" = '--batch 1' ] && cp "$T/out" "$T/json"
    expect "overlapping windows $how: the same" cmp -s "$T/out" "$T/json"
done
expect 'the tokens are kept in the cache' [ "$(ls "$T/cache/deepseek" | wc -l)" -eq 1 ]
expect 'and in the one that was named' [ "$(ls "$T/other" | wc -l)" -eq 1 ]
check 'a cache that cannot be' 0 '.' 'warning: the tokens go into a temporary file, not into the cache: ' "$D" eval \
    "$TEXT" --data "$T/book.txt" --context 64 --stride 10 --json --cache "$T/book.txt/x"
expect 'the same without' cmp -s "$T/out" "$T/json"
mkdir "$T/full"   # a file that may not grow stands for a full disk
for i in 1 2 3 4 5 6 7 8; do cat "$T/book.txt"; done >"$T/long.txt"
check 'a disk that is full' 1 '' 'warning: the tokens go into a temporary file, not into the cache: cannot write .*/full/.*: File too large' \
    sh -c "trap '' XFSZ; ulimit -f 1; exec $D eval $TEXT --data $T/long.txt --cache $T/full"
expect 'a disk that is full: the temporary file was tried' grep \
    -q '^deepseek eval: cannot write a temporary file of tokens: File too large' "$T/err"
expect 'a disk that is full: nothing is left' [ -z "$(ls "$T/full")" ]
check 'JSON lines' 0 "\"tokens\": $((size - 2)), \"bytes\": $((size - 9)), .*\"documents\": 8, " '' "$D" eval "$TEXT" \
    --data "$T/lines.jsonl" --text-key body --json
check 'the wrong key' 1 '' \
    'lines.jsonl: line 1, byte 0: found no key "text" among "body", expected an object with a string "text"$' "$D" \
    eval "$TEXT" --data "$T/lines.jsonl"
echo 'no JSON' >>"$T/lines.jsonl"
check 'a bad line' 1 '' 'lines.jsonl: line 9, byte [0-9]*: column ' "$D" eval "$TEXT" --data "$T/lines.jsonl" \
    --text-key body
check 'a bad line is left out' 0 "\"tokens\": $((size - 2)), " \
    'lines.jsonl: 1 lines hold no document and are left out$' "$D" eval "$TEXT" --data "$T/lines.jsonl" \
    --text-key body --skip-bad-lines --json
printf 'one<|endoftext|>two' >"$T/marked.txt"
check 'markers are text' 0 '"tokens": 18, "bytes": 18, ' \
    'marked.txt: holds <|endoftext|> 1 times, as plain text; --special-tokens reads it as a token$' "$D" eval "$TEXT" \
    --data "$T/marked.txt" --json
check 'unless they are meant' 0 '"tokens": 6, "bytes": 5, ' '' "$D" eval "$TEXT" --data "$T/marked.txt" \
    --json --special-tokens
check 'a stride beyond the context' 2 '' '--stride 65: expected at most the context, 64' "$D" eval "$TEXT" \
    --data "$T/book.txt" --context 64 --stride 65
check 'a stride of nothing' 2 '' '--stride' "$D" eval "$TEXT" --data "$T/book.txt" --stride 0
check 'packed data' 1 '' 'found a .gz file, expected text or JSON lines' sh \
    -c "cp $T/book.txt $T/book.txt.gz && $D eval $TEXT --data $T/book.txt.gz"
finish
