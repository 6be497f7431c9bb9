#!/bin/sh
# deepseek data: stories as text and as JSON lines, amounts, threads, files and their errors.
. "$(dirname "$0")/lib.sh"
D=$DEEPSEEK

check 'data alone' 2 '' 'data' $D data
check 'data --help' 0 'stories' '' $D data --help
check 'a kind that is not there' 2 '' 'storys' $D data storys
check 'stories --help' 0 '^usage: deepseek data stories ' '' $D data stories --help
check 'an operand' 2 '' 'unexpected argument `x`' $D data stories x
for wrong in 0 -1 x '' 1e3; do check "--count $wrong" 2 '' "--count: found \`$wrong\`, expected an integer" $D data \
    stories --count "$wrong"; done
check '--count with --bytes' 2 '' '--count and --bytes exclude each other' $D data stories --count 2 --bytes 10
for wrong in 0 -5 x '' M 3T 10m 5KBB 1e300 99999999G 'nan' '1 M'; do check "--bytes $wrong" 2 '' \
    "--bytes: found \`$wrong\`, expected a size" $D data stories --bytes "$wrong"; done
check '--seed' 2 '' '--seed: found `-1`' $D data stories --seed -1
check '--format' 2 '' '--format: found `csv`, expected text or jsonl' $D data stories --format csv

# Stories are separated by one blank line, or are one JSON document per line; the texts are the same.
check 'text' 0 '[.!?"]$' '' $D data stories -n 5 --seed 3
cp "$T/out" "$T/five"
expect 'five stories, four blank lines' [ "$(grep -c '^$' "$T/five")" -eq 4 ]
check 'fewer are the beginning of more' 0 '*' '' $D data stories -n 3 --seed 3
expect 'the same beginning' cmp -s -n "$(wc -c <"$T/out")" "$T/out" "$T/five"
check 'another seed' 0 '*' '' $D data stories -n 5 --seed 4
expect 'another text' [ "$(cat "$T/out")" != "$(cat "$T/five")" ]
check 'JSON lines' 0 '^{"text":".*"}$' '' $D data stories -n 5 --seed 3 --format jsonl
expect 'five lines' [ "$(wc -l <"$T/out")" -eq 5 ]
sed -e 's/^{"text":"//' -e 's/"}$//' -e 's/\\n/\
/g' -e 's/\\"/"/g' "$T/out" | sed '/^$/d' >"$T/decoded"
sed '/^$/d' "$T/five" >"$T/plain"
expect 'the same stories' cmp -s "$T/decoded" "$T/plain"

# The bytes do not depend on the number of threads; sizes end with a whole story.
for format in text jsonl; do
    $D data stories --bytes 700K --seed 9 -f $format --threads 1 -o "$T/one" 2>"$T/err"
    for threads in 2 3 7; do
        $D data stories --bytes 700K --seed 9 -f $format --threads $threads -o "$T/more" 2>"$T/err"
        expect "$format: $threads threads" cmp -s "$T/one" "$T/more"
    done
    $D data stories --bytes 700K --seed 9 -f $format --threads 2 >"$T/more" 2>"$T/err"
    expect "$format: standard output" cmp -s "$T/one" "$T/more"
    size=$(wc -c <"$T/one")
    expect "$format: size" [ "$size" -ge 716800 ] && expect "$format: not a story more" [ "$size" \
        -lt $((716800 + 2000)) ]
    expect "$format: ends a line" [ "$(tail -c 1 "$T/one" | wc -l)" -eq 1 ]
done
$D data stories --bytes 20KB -q >"$T/out"
size=$(wc -c <"$T/out")
expect 'KB is 1000' [ "$size" -ge 20000 ] && expect 'KB is 1000, no more' [ "$size" -lt 22000 ]
check 'one byte is one story' 0 '*' '' $D data stories --bytes 1
expect 'one story' [ "$(grep -c '^$' "$T/out")" -eq 0 ]

# Files are whole or absent; what was there stays.
check 'no such folder' 1 '' 'nowhere' $D data stories -o "$T/nowhere/file"
check 'a folder' 1 '' 'is a folder' $D data stories -o "$T"
check 'an empty name' 1 '' 'is empty' $D data stories -o ''
if [ -w /dev/full ]; then
    sh -c '"$0" data stories -n 2000 -q >/dev/full' "$D" 2>"$T/err"
    expect 'a full disk: exit code' [ $? -eq 1 ]
    expect 'a full disk: message' grep -q 'standard output: No space left' "$T/err"
fi
echo before >"$T/kept"
sh -c 'ulimit -f 64; "$0" data stories --bytes 1M -q -o "$1"' "$D" "$T/kept" 2>"$T/err"
expect 'a file too large: exit code' [ $? -eq 1 ]
expect 'a file too large: message' grep -q 'kept.*File too large' "$T/err"
expect 'a file too large: the old one stays' [ "$(cat "$T/kept")" = before ]
expect 'a file too large: nothing is left beside it' [ "$(find "$T" -name 'kept*' | wc -l)" -eq 1 ]
$D data stories --bytes 1G 2>"$T/err" | head -n 1 >"$T/out"
expect 'a closed pipe is no message' [ ! -s "$T/err" ]

finish
