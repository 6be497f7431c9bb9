#!/bin/bash
# deepseek train from outside: kinds of data, the token cache, tokenizers trained on the data, data larger than the
# memory allowed.
. "$(dirname "$0")/common.sh"
cache=$XDG_CACHE_HOME/deepseek
entries() { ls "$cache" 2>/dev/null | wc -l; }
on() { local data=$1; shift; "$program" train "$tiny" --data "$data" --out "$@" --set train.steps=3 \
    --set train.sample_every=0; }

# The same documents as a folder of texts and as JSON lines are the same data; what is told says where it came from.
mkdir "$scratch/folder"
i=0
while IFS= read -r line; do
    i=$((i + 1))
    printf '%s' "$line" >"$scratch/folder/$(printf %03d $i).txt"
    printf '{"id": %d, "text": "%s"}\r\n\n' $i "$line"
done <"$scratch/text.txt" >"$scratch/data.jsonl"
on "$scratch/folder" "$scratch/a" >/dev/null 2>"$scratch/messages"
check "a folder of texts" grep -q "^data .* tokens in $i documents, .* held out$" "$scratch/messages"
on "$scratch/data.jsonl" "$scratch/b" >/dev/null 2>"$scratch/messages"
check "JSON lines" grep -q "^data .* tokens in $i documents" "$scratch/messages"
check "are the same data" cmp "$scratch/a/checkpoints/step-00000003/parameters.safetensors" \
    "$scratch/b/checkpoints/step-00000003/parameters.safetensors"
check "two entries of the cache" [ "$(entries)" == 2 ]
on "$scratch/data.jsonl" "$scratch/c" >/dev/null 2>"$scratch/messages"
check "tokenised once" grep -q "held out, from the cache$" "$scratch/messages"
check "with the same bytes" diff -r "$scratch/c/model" "$scratch/b/model"
sed 's/"text"/"content"/' "$scratch/data.jsonl" >"$scratch/other.jsonl"
check "another key" on "$scratch/other.jsonl" "$scratch/d" --quiet --set train.text_key=content >/dev/null
check "gives the same" diff -r "$scratch/d/model" "$scratch/b/model"
refuses "the wrong key" 1 \
    "other.jsonl: line 1, byte 0: found no key \"text\" among \"id\", \"content\", expected an object with a string \"text\"" on "$scratch/other.jsonl" "$scratch/none"
{ cat "$scratch/data.jsonl"; echo '{"text": '; } >"$scratch/bad.jsonl"
refuses "a bad line" 1 "bad.jsonl: line $((2 * i + 1)), byte $(stat -c %s "$scratch/data.jsonl"): " on \
    "$scratch/bad.jsonl" "$scratch/none"
check "nothing was left behind" [ ! -e "$scratch/none" ]
on "$scratch/bad.jsonl" "$scratch/e" --set train.bad_lines=skip >/dev/null 2>"$scratch/messages"
check "a bad line is left out" diff -r "$scratch/e/model" "$scratch/b/model"
check "and counted" grep -q "warning: 1 lines of the data hold no document and are left out" "$scratch/messages"

# The cache: a folder of one's own, a damaged entry, no folder at all.
on "$scratch/text.txt" "$scratch/f" --cache "$scratch/mine" --quiet >/dev/null
check "--cache" [ "$(ls "$scratch/mine" | wc -l)" == 1 ]
printf x | dd of="$scratch/mine/$(ls "$scratch/mine")" bs=1 seek=300 conv=notrunc 2>/dev/null
on "$scratch/text.txt" "$scratch/g" --cache "$scratch/mine" >/dev/null 2>"$scratch/messages"
check "a damaged entry is made anew" diff -r "$scratch/g/model" "$scratch/f/model"
check "and named" grep -q "warning: the token cache is made anew: $scratch/mine/.*: token 22 has the id" \
    "$scratch/messages"
on "$scratch/text.txt" "$scratch/h" --cache "$scratch/text.txt/cache" >/dev/null 2>"$scratch/messages"
check "a cache that cannot be: the tokens go into the run's folder" diff -r "$scratch/h/model" "$scratch/f/model"
check "with a warning" grep -q "warning: the tokens go to $scratch/h, not into the cache: " "$scratch/messages"
check "once" [ "$(ls "$scratch/h" | grep -c tokens)" == 1 ]
on "$scratch/text.txt" "$scratch/h" --cache "$scratch/text.txt/cache" --resume >/dev/null 2>"$scratch/messages"
check "from which they are taken again" grep -q "from the cache$" "$scratch/messages"

refuses "no room in the cache" 1 "File too large; another folder can be given with --cache" bash \
    -c "ulimit -f 8; exec '$program' train '$tiny' --data '$scratch/text.txt' --out '$scratch/none' --cache '$scratch/full' --quiet"
check "leaves nothing there" [ -z "$(ls "$scratch/full")" ]
check "and no run" [ ! -e "$scratch/none" ]

# A tokenizer trained on the data: the same on any number of threads; resumed with the run's own or trained again, byte
# for byte.
bpe() { train "$@" --set train.tokenizer=300 --set train.special_tokens=false; }
bpe "$scratch/bpe" --threads 2 --quiet >/dev/null
check "a tokenizer of 300 tokens" grep -q '"vocab_size": 300,' "$scratch/bpe/model/config.json"
check "whose bos and eos are exported" bash \
    -c "grep -q '\"bos_token_id\": 0,' '$scratch/bpe/model/config.json' && grep -q '\"eos_token_id\": 1' '$scratch/bpe/model/generation_config.json'"
check "the setting stays a number" grep -q '"tokenizer": 300,' "$scratch/bpe/config.json"
bpe "$scratch/bpe1" --threads 1 --quiet >/dev/null
check "one thread and two give the same bytes" same "$scratch/bpe1" "$scratch/bpe"
{ cat "$scratch/text.txt"; echo 'a<｜end▁of▁sentence｜>b'; } >"$scratch/marked.txt"
"$program" train "$tiny" --data "$scratch/marked.txt" --out "$scratch/marked" --set train.tokenizer=300 \
    --set train.steps=1 >/dev/null 2>"$scratch/messages"
check "a marker in the data is named" grep -q 'warning: the data holds <｜end▁of▁sentence｜> 1 times, as plain text; ' \
    "$scratch/messages"
"$program" eval "$scratch/bpe/model" --data "$scratch/marked.txt" >/dev/null 2>"$scratch/messages"
check "by eval too" grep -q 'marked.txt: holds <｜end▁of▁sentence｜> 1 times, as plain text; ' "$scratch/messages"
for lost in "" "rm -r X/model" "rm X/model/tokenizer_config.json" "printf 5 >X/model/tokenizer.json"; do
    rm -rf "$scratch/part"
    start "$scratch/part" --quiet --set train.tokenizer=300 --set train.save_every=20
    while [ ! -e "$scratch/part/model/generation_config.json" ] && kill -0 $pid 2>/dev/null; do sleep 0.01; done
    kill -KILL $pid 2>/dev/null
    wait $pid 2>/dev/null
    bash -c "${lost//X/$scratch/part}" 2>/dev/null
    check "${lost:-all there}: the run resumes" bpe "$scratch/part" --resume --quiet --set train.save_every=6 >/dev/null
    check "${lost:-all there}: to the same bytes" bash \
        -c "cmp '$scratch/part/metrics.jsonl' '$scratch/bpe/metrics.jsonl' && diff -r '$scratch/part/model' '$scratch/bpe/model'"
done
sed 's/cat/rat/g' "$scratch/text.txt" >"$scratch/other.txt"
refuses "other data" 1 "other.txt: the data is not the data that the run was begun with" "$program" train "$tiny" \
    --data "$scratch/other.txt" --out "$scratch/bpe" --resume --set train.tokenizer=300
rm -rf "$scratch/bpe1/model"
refuses "other data, without the run's tokenizer" 1 "other.txt: the data is not the data that the run was begun with" \
    "$program" train "$tiny" --data "$scratch/other.txt" --out "$scratch/bpe1" --resume --set train.tokenizer=300
refuses "another size" 1 "the run was begun with" train "$scratch/bpe" --resume --set train.tokenizer=310
refuses "a size too small" 2 \
    "--set train.tokenizer=258: found 258, expected a text of up to 1023 bytes, or an integer from 259 to" train \
    "$scratch/none" --set train.tokenizer=258
check "the trained tokenizer serves another run" train "$scratch/other" \
    --quiet --set train.tokenizer="$scratch/bpe/model" --set train.steps=3 >/dev/null
check "as it is" cmp "$scratch/other/model/tokenizer.json" "$scratch/bpe/model/tokenizer.json"

# More text than memory: 64 MB in one file, 60 MB of address space for the whole process.
yes 'the cat sat on the mat and looked at the dog' | head -c 64000000 >"$scratch/large.txt"
small=(--threads 1 --quiet --set train.tokenizer=bytes --set train.steps=1 --set train.eval_fraction=0
    --set train.sample_every=0)
big() { (ulimit -v "${limit:-unlimited}"
    exec "$program" train "$tiny" --data "$scratch/large.txt" --out "$@" "${small[@]}" >/dev/null); }
limit=60000 check "more text than memory" big "$scratch/large"
check "its tokens are in the cache" [ "$(ls -l "$cache" | awk '$5 == 256 + 2 * 64000000' | wc -l)" == 1 ]
# Interrupted or killed while it tokenises: nothing that counts is left, and the next run is as any other.
for signal in INT TERM KILL; do
    for ((attempt = 0; attempt < 20; attempt++)); do   # on a busy machine it may be done before the signal comes
        rm -rf "$scratch/stopped" "$scratch/young"
        "$program" train "$tiny" --data "$scratch/large.txt" --out "$scratch/stopped" --cache "$scratch/young" \
            "${small[@]}" >/dev/null 2>"$scratch/messages" &
        pid=$!
        while ! ls "$scratch/young" 2>/dev/null | grep -q tmp && kill -0 $pid 2>/dev/null; do sleep 0.005; done
        kill -$signal $pid 2>/dev/null
        wait $pid 2>/dev/null
        status=$?
        ((status != 0)) && break
    done
    [ $signal == KILL ] || check "SIG$signal while tokenising: exit $status: $(cat "$scratch/messages")" [ $status \
        == 1 ]
    [ $signal == KILL ] || check "SIG$signal while tokenising: nothing is left" [ ! -e "$scratch/stopped" \
        -a -z "$(ls "$scratch/young")" ]
    check "SIG$signal while tokenising: no entry is left" [ "$(ls "$scratch/young" | grep -vc tmp)" == 0 ]
done
check "after which the run begins as if nothing had been" big "$scratch/stopped" --cache "$scratch/young"
check "with the same bytes" diff -r "$scratch/stopped/model" "$scratch/large/model"
finish
