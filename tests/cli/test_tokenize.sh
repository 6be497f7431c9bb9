#!/bin/sh
# deepseek tokenize: text to ids and back, tokenizers from text, and everything that can be wrong with what is given.
. "$(dirname "$0")/lib.sh"
D=$DEEPSEEK
V4=tests/text/data/deepseek.tokenizer.json
K=tests/text/data/small-v3/tokenizer.json

# ---- encode ----
check 'encode -p' 0 '^\[671,6102,294,8760,344\]$' '' $D tokenize encode $V4 -p 'The capital of France is'
check 'encode --file' 0 '^\[33310,271,29616,201\]$' '' sh \
    -c "printf 'hello\n\nworld\n' >$T/text; $D tokenize encode $V4 --file $T/text"
check 'encode from standard input' 0 '^\[33310,271,29616,201\]$' '' sh -c "$D tokenize encode $V4 <$T/text"
check 'encode --file -' 0 '^\[33310,271,29616,201\]$' '' sh -c "$D tokenize encode $V4 --file - <$T/text"
check 'encode -p -' 0 '^\[33310,271,29616,201\]$' '' sh -c "$D tokenize encode $V4 -p - <$T/text"
check 'encode, a pipe that is slow' 0 '^\[33310,271,29616,201\]$' '' sh \
    -c "{ printf 'hel'; sleep 0.1; printf 'lo\n'; sleep 0.1; printf '\nworld\n'; } | $D tokenize encode $V4"
check 'encode nothing' 0 '^\[\]$' '' $D tokenize encode $V4 -p ''
check 'encode an empty file' 0 '^\[\]$' '' $D tokenize encode $V4 --file /dev/null
check 'encode NUL' 0 '^\[90,191,91\]$' '' sh -c "printf 'x\0y' | $D tokenize encode $V4"
check 'encode: markers' 0 '^\[128821,35,128822\]$' '' $D tokenize encode $V4 -p '<think>A</think>'
check 'encode --plain' 0 '^\[[0-9]*,[0-9]*,[0-9]*,[0-9,]*\]$' '' $D tokenize encode $V4 --plain -p '<think>A</think>'
expect 'encode --plain: no marker' [ "$(grep -c 12882 "$T/out")" -eq 0 ]
check 'encode --count' 0 '^5$' '' $D tokenize encode $V4 -p 'The capital of France is' --count
check 'encode --pieces' 0 '^    6102     8  " capital"$' '' $D tokenize encode $V4 -p 'The capital of France is' \
    --pieces
check 'encode --pieces: bytes that are no characters' 0 '\\x' '' $D tokenize encode $V4 -p '🜚' --pieces
check 'encode: what is not UTF-8' 0 '^\[' \
    '^deepseek tokenize encode: warning: --prompt: 2 places are not UTF-8 and count as U+FFFD$' $D tokenize encode $K \
    -p "$(printf 'a\377b\376')"
cp "$T/out" "$T/bad"
check 'encode: U+FFFD instead' 0 '*' '' $D tokenize encode $K -p "$(printf 'a\357\277\275b\357\277\275')"
expect 'encode: the same ids' cmp -s "$T/bad" "$T/out"
check 'encode -q: no warning' 0 '*' '' $D tokenize encode $K -q -p "$(printf 'a\377')"
check 'encode with a model folder' 0 '^\[[0-9,]*\]$' '' $D tokenize encode "$TEXT" -p 'Once'
check 'encode: a character that the tokenizer lacks' 2 '' \
    '^deepseek tokenize encode: --prompt: byte 2: the character U+03A9' $D tokenize encode "$TEXT" -p 'OnΩ'
check 'bytes take every byte' 0 '^\[[0-9]*,[0-9]*,[0-9]*\]$' '' sh \
    -c "printf '\377\0\200' | $D tokenize encode tests/cli/data/bytes"
cp "$T/out" "$T/ids"
check 'bytes give every byte back' 0 '*' '' $D tokenize decode tests/cli/data/bytes --raw --file "$T/ids"
expect 'bytes: the same' [ "$(od -An -tx1 "$T/out" | tr -d ' \n')" = ff0080 ]

# ---- decode ----
check 'decode an array' 0 '^The capital of France is$' '' $D tokenize decode $V4 '[671, 6102, 294, 8760, 344]'
expect 'decode: no line end of its own' [ "$(wc -c <"$T/out")" -eq 24 ]
check 'decode numbers' 0 '^The capital of France is$' '' $D tokenize decode $V4 '671 6102,294, 8760	344'
check 'decode --file' 0 '^The capital$' '' sh \
    -c "printf '[671,\n 6102]\n' >$T/ids; $D tokenize decode $V4 --file $T/ids"
check 'decode from standard input' 0 '^The capital$' '' sh -c "$D tokenize decode $V4 <$T/ids"
check 'decode, a pipe that cuts a number' 0 '^The capital$' '' sh \
    -c "{ printf '[67'; sleep 0.1; printf '1,61'; sleep 0.1; printf '02]'; } | $D tokenize decode $V4"
check 'decode nothing' 0 '' '' $D tokenize decode $V4 '[]'
check 'decode: half a character' 0 '^�$' '' $D tokenize decode $V4 124
check 'decode --skip-special' 0 '^The$' '' $D tokenize decode $V4 0,671,1 --skip-special
check 'decode: special tokens' 0 '^<｜begin▁of▁sentence｜>The<｜end▁of▁sentence｜>$' '' $D tokenize decode $V4 0,671,1
check 'decode: ids that are not there' 0 '^The$' \
    'warning: the ids: 2 ids are not in the tokenizer and stand for nothing$' $D tokenize decode $V4 \
    671,129280,4294967295
check 'decode: an id beyond 32 bits' 1 '' \
    'the ids: line 1, byte 4: found `4294967296`, expected an id from 0 to 4294967295$' $D tokenize decode $V4 \
    671,4294967296
check 'decode: a negative id' 1 '' 'the ids: line 1, byte 4: found `-5`, expected an id$' $D tokenize decode $V4 671,-5
check 'decode: a fraction' 1 '' 'the ids: line 1, byte 4: found `.5`, expected `,` or `\]`$' $D tokenize decode $V4 \
    '[671.5]'
check 'decode: a word' 1 '' 'the ids: line 1, byte 5: found `x`, expected an id or an array of ids$' $D tokenize \
    decode $V4 '     x'
check 'decode: an array that does not end' 1 '' 'line 3, byte 6: found the end, expected `,` or `\]`$' sh \
    -c "printf '[671\n\n' | $D tokenize decode $V4"
check 'decode: a comma too many' 1 '' 'the ids: line 1, byte 5: found `\]`, expected an id$' $D tokenize decode $V4 \
    '[671,]'
check 'decode: more than an array' 1 '' 'the ids: line 1, byte 5: found `\[`, expected nothing behind the array$' $D \
    tokenize decode $V4 '[671][672]'
check 'decode: no comma' 1 '' 'the ids: line 1, byte 5: found `6102`, expected `,` or `\]`$' $D tokenize decode $V4 \
    '[671 6102]'
$D tokenize encode $V4 --file data/README.md >"$T/ids"
check 'a file comes back' 0 '.' '' $D tokenize decode $V4 --file "$T/ids"
expect 'a file comes back: the same' cmp -s data/README.md "$T/out"

# ---- JSON lines ----
printf '%s\n' '{"id":0,"text":"The capital"}' '' '{"text": "a\u0000b", "id": 123456789012345678901234567890}' \
    '"hello"' >"$T/lines.jsonl"
printf '{"text":""}' >>"$T/lines.jsonl"
printf '[671,6102]\n[67,191,68]\n[33310]\n[]\n' >"$T/expected"
check 'encode --jsonl' 0 '.' '' $D tokenize encode $V4 --jsonl "$T/lines.jsonl"
expect 'encode --jsonl: one array per line' cmp -s "$T/out" "$T/expected"
check 'encode --jsonl -' 0 '.' '' sh -c "$D tokenize encode $V4 --jsonl - <$T/lines.jsonl"
expect 'encode --jsonl -: the same' cmp -s "$T/out" "$T/expected"
check 'encode --jsonl --count' 0 '^3$' '' $D tokenize encode $V4 --jsonl "$T/lines.jsonl" --count
check 'decode --jsonl' 0 '^"a\\u0000b"$' '' $D tokenize decode $V4 --jsonl "$T/expected"
check 'there and back' 0 '.' '' sh -c "$D tokenize decode $V4 --jsonl $T/expected | $D tokenize encode $V4 --jsonl -"
expect 'there and back: the same' cmp -s "$T/out" "$T/expected"
check 'decode --jsonl: half a character' 0 '^"�"$' '' sh -c "echo '[124]' | $D tokenize decode $V4 --jsonl -"
check 'a line at a time' 0 '^\[671\]$' '' sh \
    -c "mkfifo $T/pipe; exec 3<>$T/pipe; $D tokenize encode $V4 --jsonl $T/pipe >$T/answer 3>&- & echo '\"The\"' >&3; n=0; until [ -s $T/answer ] || [ \$n -eq 1200 ]; do sleep 0.05; n=\$((n + 1)); done; cat $T/answer; exec 3>&-; wait"
printf '\357\273\277{"text":"The"}\r\n{"text":"a\377\376b"}\r\n' >"$T/odd.jsonl"
check 'a byte order mark, CRLF, what is not UTF-8' 0 '^\[671\]$' \
    'warning: .*odd.jsonl: 2 places are not UTF-8 and count as U+FFFD$' $D tokenize encode $V4 --jsonl "$T/odd.jsonl"
wrong_line() { # NAME LINE MESSAGE
    printf '{"text": "The"}\n%b\n{"text": "a"}\n' "$2" >"$T/wrong.jsonl"
    check "$1" 1 '^\[671\]$' "^deepseek tokenize encode: $T/wrong.jsonl: line 2, byte $3" $D tokenize encode $V4 \
        --jsonl "$T/wrong.jsonl"
    expect "$1: nothing behind it" [ "$(wc -l <"$T/out")" -eq 1 ]
}
wrong_line 'a line that is no JSON' '{"text": The}' '2[0-9]: not JSON: .*; expected an object with a string "text"$'
wrong_line 'a line that ends early' '{"text": "The' '.*: not JSON: .*; expected an object with a string "text"$'
wrong_line 'a line with more behind it' '{"text": "a"} x' '.*: not JSON: .*; expected'
wrong_line 'a surrogate alone' '{"text": "\\ud800"}' '.*: not JSON: .*; expected'
wrong_line 'a key twice' '{"text": "a", "text": "b"}' '.*: not JSON: .*; expected'
wrong_line 'a line without text' '{"id": 3}' \
    '16: found an object without "text", expected an object with a string "text"$'
wrong_line 'a text that is a number' '{"text": 3}' '16: found a number under "text", expected a string$'
wrong_line 'a text that is null' '{"text": null}' '16: found null under "text", expected a string$'
wrong_line 'a line that is an array' '["text"]' '16: found an array, expected an object with a string "text"$'
printf '[671]\n[671,x]\n' >"$T/wrong.jsonl"
check 'decode --jsonl: a wrong id' 1 '^"The"$' \
    "^deepseek tokenize decode: $T/wrong.jsonl: line 2, byte 11: found .x., expected an id$" $D tokenize decode $V4 \
    --jsonl "$T/wrong.jsonl"
printf '671\n' >"$T/wrong.jsonl"
check 'decode --jsonl: no array' 1 '' 'line 1, byte 0: found `671`, expected an array of ids$' $D tokenize decode $V4 \
    --jsonl "$T/wrong.jsonl"
printf '{"text": "\316\251"}\n' >"$T/wrong.jsonl"
check 'a character that the tokenizer lacks' 1 '' 'wrong.jsonl: line 1, byte 0: "text": byte 0: the character U+03A9' \
    $D tokenize encode "$TEXT" --jsonl "$T/wrong.jsonl"

# Threads: large inputs, in order.
awk 'BEGIN { for (i = 0; i < 60000; i++) printf "{\"id\":%d,\"text\":\"line %d of many, %d times\"}\n", i, i, i * i }' \
    >"$T/many.jsonl"
check 'many lines, one thread' 0 '.' '' $D tokenize encode $K --jsonl "$T/many.jsonl" --threads 1
mv "$T/out" "$T/one"
check 'many lines, three threads' 0 '.' '' $D tokenize encode $K --jsonl "$T/many.jsonl" --threads 3
expect 'many lines: the same' cmp -s "$T/one" "$T/out"
expect 'many lines: all' [ "$(wc -l <"$T/out")" -eq 60000 ]
awk 'BEGIN { printf "\"short\"\n\""; for (i = 0; i < 200000; i++) printf "a line of %d words ", i; printf "\"\n\"short\"\n" }' >"$T/long.jsonl"
check 'a long line, one thread' 0 '.' '' $D tokenize encode $K --jsonl "$T/long.jsonl" --threads 1
mv "$T/out" "$T/one"
check 'a long line, three threads' 0 '.' '' $D tokenize encode $K --jsonl "$T/long.jsonl" --threads 3
expect 'a long line: the same' cmp -s "$T/one" "$T/out"
expect 'a long line: all' [ "$(wc -l <"$T/out")" -eq 3 ]
check 'a long line comes back' 0 '.' '' sh -c "$D tokenize decode $K --jsonl $T/one | cmp - $T/long.jsonl && echo same"
awk 'BEGIN { for (i = 0; i < 900000; i++) printf "%d words and é, ", i }' >"$T/large"
check 'a large file, one thread' 0 '.' '' $D tokenize encode $K --file "$T/large" --threads 1
mv "$T/out" "$T/one"
check 'a large file, three threads, a pipe' 0 '.' '' sh -c "cat $T/large | $D tokenize encode $K --threads 3"
expect 'a large file: the same' cmp -s "$T/one" "$T/out"
check 'a large file comes back' 0 'same' '' sh -c "cat $T/one | $D tokenize decode $K | cmp - $T/large && echo same"
rm -f "$T/large" "$T/one" "$T/many.jsonl" "$T/long.jsonl"

# ---- command lines and files that are wrong ----
check 'tokenize alone' 2 '' 'missing' $D tokenize
check 'tokenize --help' 0 '^  encode ' '' $D tokenize --help
check 'tokenize enkode' 2 '' 'did you mean `encode`' $D tokenize enkode
for command in encode decode train; do
    check "tokenize $command --help" 0 "^usage: deepseek tokenize $command " '' $D tokenize $command --help
    expect "tokenize $command --help: examples" grep -q "^  deepseek tokenize $command " "$T/out"
    cp "$T/out" "$T/help"
    expect "tokenize $command --help: 80 columns, commands apart" \
        [ "$(awk 'length > 80 && !/^  deepseek /' "$T/help" | wc -l)" -eq 0 ]
    check "help tokenize $command" 0 '.' '' $D help tokenize $command
    expect "help tokenize $command: the same" cmp -s "$T/out" "$T/help"
done
check 'encode: no tokenizer' 2 '' '^deepseek tokenize encode: TOKENIZER is missing' $D tokenize encode
check 'encode: two texts' 2 '' 'exclude each other' $D tokenize encode $K -p a --file b
check 'encode: --pieces of lines' 2 '' '--pieces excludes --jsonl and --count' $D tokenize encode $K --pieces --jsonl a
check 'decode: two sources' 2 '' 'exclude each other' $D tokenize decode $K 1 --file b
check 'decode: --raw lines' 2 '' '--raw and --jsonl exclude each other' $D tokenize decode $K --raw --jsonl b
check 'a tokenizer that is not there' 1 '' 'nowhere.*No such file' $D tokenize encode "$T/nowhere" -p a
mkdir -p "$T/run/checkpoints"
touch "$T/run/lock"
cp -r "$TEXT" "$T/run/model"
check 'the folder of a run' 1 '' 'its model is .*/run/model$' $D tokenize encode "$T/run" -p a
echo '{' >"$T/broken.json"
check 'a tokenizer that is broken' 1 '' 'broken.json: ' $D tokenize encode "$T/broken.json" -p a
check 'a text that is not there' 1 '' 'cannot open .*nowhere: No such file' $D tokenize encode $K --file "$T/nowhere"
check 'a text that is a folder' 1 '*' 'cannot read .*: Is a directory' $D tokenize encode $K --file "$T"
check 'lines that are not there' 1 '' 'cannot open .*nowhere: No such file' $D tokenize encode $K --jsonl "$T/nowhere"
check 'ids that are not there' 1 '' 'cannot open .*nowhere: No such file' $D tokenize decode $K --file "$T/nowhere"
if [ -c /dev/full ]; then
    $D tokenize encode $K --file data/README.md >/dev/full 2>"$T/err"
    expect 'a full disk: exit code' [ $? -eq 1 ]
    expect 'a full disk: message' grep -q '^deepseek: standard output: No space left on device$' "$T/err"
    $D tokenize encode $V4 --jsonl tests/text/data/texts.jsonl >/dev/full 2>"$T/err"
    expect 'a full disk, lines: exit code' [ $? -eq 1 ]
    expect 'a full disk, lines: message' grep -q '^deepseek: standard output: No space left on device$' "$T/err"
fi
{ $D tokenize encode $V4 --jsonl tests/text/data/texts.jsonl 2>"$T/err"; echo $? >"$T/code"; } | head -c 10 >/dev/null
expect 'a reader that leaves: quiet' [ ! -s "$T/err" ]

# ---- train ----
head -c 1003854 data/tinyshakespeare.txt >"$T/train.txt"
check 'train' 0 '^vocabulary  *1 000   tokens: 0 special, 256 bytes, 744 merges$' 'wrote .*/k/tokenizer.json in ' $D \
    tokenize train --data "$T/train.txt" -n 1000 --no-special --out "$T/k"
expect 'train: text' grep -q '^text  *1 003 854   bytes in 1 file, 14 315 different pieces$' "$T/out"
sed -nE 's/^bytes per token +([0-9.]+)   ([0-9 ]+) tokens$/\2/p' "$T/out" | tr -d ' ' >"$T/tokens"
check 'train: tokens of the text' 0 '.' '' $D tokenize encode "$T/k" --file "$T/train.txt" --count
expect 'train: as many as it said' cmp -s "$T/out" "$T/tokens"
sed -nE '/"merges"/,$ s/^ +"(.*)",?$/\1/p' "$T/k/tokenizer.json" | sed 's/\\\(.\)/\1/g' >"$T/merges"
head -n 744 tests/text/data/trained-4096.merges.txt >"$T/expected"
expect 'train: the merges of the reference' cmp -s "$T/merges" "$T/expected"
check 'train: threads' 0 '.' '' $D tokenize train --data "$T/train.txt" -n 1000 --no-special --out "$T/k1" --threads 1 \
    -q
expect 'train --threads 1: the same' cmp -s "$T/k/tokenizer.json" "$T/k1/tokenizer.json"
check 'train: a folder that holds a tokenizer' 1 '' \
    'k/tokenizer.json: there is a tokenizer already; give another folder, or remove it$' $D tokenize train \
    --data "$T/train.txt" --out "$T/k"
check 'train with special tokens' 0 '^vocabulary  *300   tokens: 5 special, 256 bytes, 39 merges$' '' $D tokenize \
    train --data "$T/train.txt" -n 300 --special '<|user|>' --special '<|assistant|>' --out "$T/s" -q
check 'special tokens have ids' 0 '^\[0,3,35,4,1\]$' '' $D tokenize encode "$T/s" \
    --bos -p '<|user|>?<|assistant|><｜end▁of▁sentence｜>'
check 'one bos' 0 '^\[0,3\]$' '' $D tokenize encode "$T/s" --bos -p '<｜begin▁of▁sentence｜><|user|>'
check 'no bos without --bos' 0 '^\[3\]$' '' $D tokenize encode "$T/s" -p '<|user|>'
check 'train --no-bos' 0 '.' '' $D tokenize train --data "$T/train.txt" -n 300 --no-bos --out "$T/n" -q
check 'no bos after --no-bos' 0 '^\[\]$' '' $D tokenize encode "$T/n" --bos -p ''
for pipeline in v1 coder gpt2; do
    check "train --pipeline $pipeline" 0 '300   tokens' '' $D tokenize train --data "$T/train.txt" -n 300 \
        --pipeline $pipeline --out "$T/$pipeline" -q
    check "train --pipeline $pipeline: it loads, and text comes back" 0 'same' '' sh \
        -c "$D tokenize encode $T/$pipeline --file data/README.md | $D tokenize decode $T/$pipeline | cmp - data/README.md && echo same"
done
printf 'a b' >"$T/little.txt"
check 'train on little text' 0 '^vocabulary  *260   tokens' \
    'warning: the text has no more pairs to merge: the vocabulary has 260 tokens and not 4096$' $D tokenize train \
    --data "$T/little.txt" --out "$T/l"
printf 'a\377b' >"$T/bad.txt"
check 'train on what is not UTF-8' 0 '.' 'warning: .*bad.txt: 1 place is not UTF-8 and counts as U+FFFD$' $D tokenize \
    train --data "$T/bad.txt" -n 260 --out "$T/b"
mkdir "$T/corpus"
printf '{"text": "banana"}\n{"text": "bananas", "n": 1}\n' >"$T/corpus/a.jsonl"
printf 'bandana' >"$T/corpus/b.txt"
check 'train on a folder' 0 '^text  *20   bytes in 2 files, 3 different pieces$' '' $D tokenize train \
    --data "$T/corpus" -n 265 --out "$T/c" -q
printf '{"text": "banana"}\n{"text": 1}\n' >"$T/corpus/a.jsonl"
check 'train on a broken line' 1 '' 'a.jsonl: line 2, byte 19' $D tokenize train --data "$T/corpus" -n 265 \
    --out "$T/never" -q
expect 'train: nothing is left' [ ! -e "$T/never" ]
check 'train: no data' 1 '' 'nowhere' $D tokenize train --data "$T/nowhere" --out "$T/never"
check 'train: no --out' 2 '' '--out is missing' $D tokenize train --data "$T/train.txt"
check 'train: too small a vocabulary' 2 '' \
    '--vocab-size: found `258`, expected at least 259: 3 special tokens and 256 bytes' $D tokenize train \
    --data "$T/train.txt" -n 258 --out "$T/never"
check 'train: a special token twice' 1 '' 'special token "<a>" is given twice$' $D tokenize train \
    --data "$T/train.txt" --special '<a>' --special '<a>' --out "$T/never"
check 'train: a special token that is a byte' 1 '' "the vocabulary's name of a byte" $D tokenize train \
    --data "$T/train.txt" --special '!' --out "$T/never"
check 'train: another pipeline' 2 '' '--pipeline: found `v9`, expected v3, v1, coder or gpt2' $D tokenize train \
    --data "$T/train.txt" --pipeline v9 --out "$T/never"
check 'train: a file in the place of the folder' 1 '' 'little.txt' $D tokenize train --data "$T/train.txt" \
    --out "$T/little.txt"
expect 'train: nothing was written' [ ! -e "$T/never" ]
finish
