#!/bin/sh
# chat without a terminal: each line is a message or a command, and standard output carries answers alone.
# (test_chat.py: on a terminal.)
. "$(dirname "$0")/lib.sh"
D=$DEEPSEEK
C="$D chat $TEXT -n 12"
E='--logit-bias 106=-inf --logit-bias 1=-inf --logit-bias 0=-inf'   # no end of text, no line end

# ---- answers are those of generate ----
$D generate "$TEXT" -q -p Once -n 12 $E >"$T/twelve"
$D generate "$TEXT" -q -p Once -n 24 $E --json >"$T/json"
sed 's/.*"ids": \(\[.*\]\),.*/\1/' "$T/json" >"$T/ids"
check 'one message' 0 '.' '' sh -c "echo Once | $C $E"
expect 'one message: the text of generate' cmp -s "$T/twelve" "$T/out"
check 'without a line end' 0 '.' '' sh -c "printf Once | $C $E"
expect 'without a line end: the same' cmp -s "$T/twelve" "$T/out"
check 'no input' 0 '' '' sh -c "$C </dev/null"
$D generate "$TEXT" -q -p Once -n 24 $E >"$T/whole"
check 'an empty line goes on' 0 '.' '' sh -c "printf 'Once\n\n' | $C $E"
expect 'an empty line goes on: as one text' [ "$(sed -n 1p "$T/out")$(sed -n 2p "$T/out")" = "$(cat "$T/whole")" ]
check '/show' 0 "^Once" '^2 messages, 28 of 4096 tokens$' sh -c "printf 'Once\n\n/show\n' | $C $E"
expect '/show: all of it' [ "$(sed -n 3p "$T/out")" = "Once$(cat "$T/whole")" ]
check '-q' 0 '.' '' sh -c "printf 'Once\n/show\n/undo\n/reset\n' | $C $E -q"

# ---- taking back: what comes after it is what it would have been ----
printf 'Once\nupon\n/show\n' | $C $E -q >"$T/straight" 2>/dev/null
check '/undo' 0 '.' '^The last message and its answer are gone; 16 tokens remain.$' sh \
    -c "printf 'Once\nanother\n/undo\nupon\n/show\n' | $C $E"
expect '/undo: as if it had not been' [ "$(tail -n 1 "$T/out")" = "$(tail -n 1 "$T/straight")" ]
check '/undo: one token is left' 0 '.' 'gone; 1 token remains.$' sh \
    -c "printf 'O\nx\n/undo\nx\n' | $C -n 1 --logit-bias a=1000 --stop a; echo ."
check '/edit' 0 '.' '' sh -c "printf 'Once\nanother\n/edit upon\n/show\n' | $C $E -q"
expect '/edit: as if it had been said at once' [ "$(tail -n 1 "$T/out")" = "$(tail -n 1 "$T/straight")" ]
check '/edit, the text in the next line' 0 '.' '' sh -c "printf 'Once\nanother\n/edit\nupon\n/show\n' | $C $E -q"
expect '/edit, the text in the next line: the same' [ "$(tail -n 1 "$T/out")" = "$(tail -n 1 "$T/straight")" ]
check '/edit of the first message' 0 '.' '' sh -c "printf 'Never\n/edit Once\nupon\n/show\n' | $C $E -q"
expect '/edit of the first message: the same' [ "$(tail -n 1 "$T/out")" = "$(tail -n 1 "$T/straight")" ]
check '/reset' 0 '.' '' sh -c "printf 'Never\nmore\n/reset\nOnce\nupon\n/show\n' | $C $E -q"
expect '/reset: the same' [ "$(tail -n 1 "$T/out")" = "$(tail -n 1 "$T/straight")" ]
check '/retry' 0 '.' '' sh -c "printf 'Once\n/retry\n/retry\n/show\n' | $C $E -q"
expect '/retry: three answers' [ "$(head -n 3 "$T/out" | sort -u | wc -l)" -eq 3 ]
expect '/retry: the last one counts' [ "$(sed -n 4p "$T/out")" = "Once$(sed -n 3p "$T/out")" ]
$D generate "$TEXT" -q -p Once -n 12 $E --samples 3 >"$T/samples"
expect '/retry: the samples of generate' [ "$(sed '/^--- /d' "$T/samples")" = "$(head -n 3 "$T/out")" ]
for command in /undo /retry /edit; do
    check "$command of nothing" 1 '' '^deepseek chat: there is no message yet$' sh -c "echo '$command' | $C"
done

# ---- texts of several lines ----
check 'a backslash joins lines' 0 '.' '^1 message, 19 of' sh -c "printf 'one\\\\\ntwo\n/show\n' | $C $E"
expect 'a backslash joins lines: both' [ "$(tail -n 2 "$T/out" | head -n 1)" = one ]
check 'a block' 0 '.' '^1 message, 23 of' sh -c "printf '\"\"\"\n/quit\n\ntwo\\\\\n\"\"\"\n/show\n' | $C $E"
expect 'a block: as it stands' [ "$(tail -n 3 "$T/out" | tr '\n' : | cut -c 1-11)" = '/quit::two\' ]
# The end of the input ends a text too.
printf '"""\none\ntwo\n"""\n' >"$T/closed"
check 'a block that is closed' 0 '.' '' sh -c "$C $E <$T/closed"
cp "$T/out" "$T/answer"
for open in '"""\none\ntwo' '"""\none\ntwo\n'; do
    printf "$open" >"$T/open"
    check "$open" 0 '.' '' sh -c "$C $E <$T/open"
    expect "$open: the same answer" cmp -s "$T/answer" "$T/out"
done
printf '"""\none\n\n"""\n' >"$T/closed"
check 'a block with an empty line at its end' 0 '.' '' sh -c "$C $E <$T/closed"
cp "$T/out" "$T/answer"
printf 'one\\' >"$T/open"
check 'a backslash at the end of the input' 0 '.' '' sh -c "$C $E <$T/open"
expect 'a backslash at the end of the input: a line end' cmp -s "$T/answer" "$T/out"

# ---- line ends, NUL ----
check 'CRLF' 0 '.' '^1 message, 16 of' sh -c "printf 'Once\r\n/show\r\n/quit\r\nnever\r\n' | $C $E"
expect 'CRLF: the answer to the line' [ "$(head -n 1 "$T/out")" = "$(cat "$T/twelve")" ]
check 'CRLF: a block and a backslash' 0 '.' '^2 messages, ' sh \
    -c "printf '\"\"\"\r\none\r\n\"\"\"\r\none\\\\\r\ntwo\r\n/show\r\n' | $C $E"
check 'a NUL in a command' 1 '' '^deepseek chat: found a NUL byte in a command' sh \
    -c "printf '/save $T/zero\0.json\n' | $C"
expect 'a NUL in a command: nothing is written' [ ! -e "$T/zero" ]

# ---- saving and loading ----
mkdir "$T/large"   # a tokenizer with more ids than the model
cp $MODEL/config.json $MODEL/model.safetensors tests/cli/data/bytes/* "$T/large"
printf '{"turns": [{"message": "a", "answer": "b"}, {"message": "a", "answer": "\\u0001"}]}' >"$T/beyond.json"
check '/load of ids that the model lacks' 1 '' '^deepseek chat: .*beyond.json: turns\[1\]: the tokenizer has id [0-9]*, expected at most 130 (the model.s vocabulary)$' \
    sh -c "echo '/load $T/beyond.json' | $D chat $T/large -n 3"
check '/save' 0 '.' "^$T/talk.json: 2 messages saved$" sh -c "printf 'Once\nupon\n/save $T/talk.json\n' | $C $E"
check '/load' 0 '.' "^$T/talk.json: 2 messages, 32 tokens$" sh -c "printf 'Else\n/load $T/talk.json\n/show\n' | $C $E"
expect '/load: the same text' [ "$(sed -n 2p "$T/out")" = "$(tail -n 1 "$T/straight")" ]
check '/load, then /undo and a message' 0 '.' '' sh -c "printf '/load $T/talk.json\n/undo\nupon\n/show\n' | $C $E -q"
expect '/load, then /undo and a message: the same' [ "$(tail -n 1 "$T/out")" = "$(tail -n 1 "$T/straight")" ]
check '/load of nothing' 1 '.' 'nowhere.json.*No such file' sh \
    -c "printf 'Once\n/load $T/nowhere.json\n/show\n' | $C $E"
expect '/load of nothing: nothing changes' [ "$(tail -n 1 "$T/out")" = "Once$(cat "$T/twelve")" ]
echo '{"turns": [{"message": "a", "answer": "b"}, {"message": 5}]}' >"$T/wrong.json"
check '/load of something else' 1 '.' 'wrong.json: turns\[1\]: found no two strings' sh \
    -c "printf 'Once\n/load $T/wrong.json\n/show\n' | $C $E"
expect '/load of something else: nothing changes' [ "$(tail -n 1 "$T/out")" = "Once$(cat "$T/twelve")" ]
echo '[]' >"$T/wrong.json"
check '/load of an array' 1 '' 'wrong.json: turns: found no array' sh -c "echo '/load $T/wrong.json' | $C"
mkfifo "$T/fifo"
check '/load of a pipe' 1 '' 'fifo: is a pipe, expected a file that /save wrote$' timeout 60 sh \
    -c "echo '/load $T/fifo' | $C"
check '/load without a name' 1 '' '/load: found no name' sh -c "echo /load | $C"
printf '{"turns": [{"message": "a\\u0000b", "answer": "c"}]}' >"$T/nul.json"
# an ordinary character, not an error of JSON
check '/load of a text with NUL' 1 '' \
    'nul.json: turns\[0\]: byte 1: the character U+0000 is not in the tokenizer.s vocabulary' sh \
    -c "echo '/load $T/nul.json' | $C"
check '/save without a name' 1 '' '/save: found no name' sh -c "echo /save | $C"
check '/save into a missing folder' 1 '' 'nowhere/talk.json' sh -c "echo '/save $T/nowhere/talk.json' | $C"

# ---- values ----
check '/set' 0 '.' '' sh -c "printf '/set temperature=0\n/set tokens=5\nOnce\n' | $C $E"
$D generate "$TEXT" -q -p Once -n 5 --temperature 0 $E >"$T/five"
expect '/set: they count' cmp -s "$T/five" "$T/out"
check '/set alone' 0 '' '^top_k=9$' sh -c "printf '/set top-k=9\n/set\n' | $C"
expect '/set alone: the others' grep -q '^temperature=0.8$' "$T/err"
expect '/set alone: tokens' grep -q '^tokens=12$' "$T/err"
check '/set of no value' 1 '' '/set: found `temperature`, expected NAME=VALUE' sh -c "echo '/set temperature' | $C"
check '/set of a wrong value' 1 '' 'temperature: found `hot`, expected a number from 0 to 1000' sh \
    -c "echo '/set temperature=hot' | $C"
check '/set of an unknown name' 1 '' '/set: found `heat`, expected tokens, temperature' sh -c "echo '/set heat=1' | $C"
check 'an unknown command' 1 '' 'unknown command `/frobnicate`, /help lists them' sh -c "echo '/frobnicate now' | $C"
check '/help' 0 '' '^  /retry ' sh -c "echo /help | $C"
check '/quit' 0 '' '' sh -c "printf '/quit\nOnce\n' | $C"

# ---- ends ----
check 'a stop string' 0 '.' '' sh -c "printf 'Once\n/show\n' | $C --logit-bias x=100 --stop xxx -q"
expect 'a stop string: no part of the history' [ "$(cat "$T/out")" = Once ]   # an empty answer is no line
check 'an end of text' 0 '.' '^1 message, 4 of 4096 tokens$' sh -c "printf 'Once\n/show\n' | $C --logit-bias 106=1000"
check 'a full context' 0 '.' '^The context of 20 tokens is full: its oldest [0-9]* tokens are forgotten.$' sh \
    -c "printf 'Once\nupon\na time\n/show\n' | $C $E --context 20"
expect 'a full context: answers of the same length' [ "$(head -n 3 "$T/out" | wc -m)" -eq 39 ]
expect 'a full context: the whole text is shown' [ "$(sed -n 4p "$T/out" | wc -m)" -eq 51 ]
# What an answer is does not depend on where the context was full: a stop string is found across that place.
sh -c "echo Once | $C $E -q -n 24 --context 8" >"$T/full"
for at in 2 3 4 5 6 7 8; do
    stop=$(cut -c $at-$((at + 2)) "$T/full")
    check "a stop string across a full context ($at)" 0 '.\{0,1\}' '' sh \
        -c "echo Once | $C $E -q -n 24 --context 8 --stop '$stop'"
    whole=$(cat "$T/full")
    expect "a stop string across a full context ($at): ends there" [ "$(cat "$T/out")" = "${whole%%"$stop"*}" ]
done
# which alone decide here
check 'random numbers after a full context' 0 '.' '' sh \
    -c "printf 'Once\n\n\n\n' | $C $E -q --context 8 --temperature 1000 --top-p 1"
expect 'random numbers after a full context: others in each answer' [ "$(sort -u "$T/out" | wc -l)" -eq 4 ]
check 'a message that has left the context' 1 '.' 'the beginning of the last message has left the context' sh \
    -c "printf 'Once\n/retry\n' | $C $E --context 8"
check 'a message longer than the context' 1 '' 'the message has 20 tokens, expected less than 20 (the context)' sh \
    -c "echo 12345678901234567890 | $C --context 20"
check 'a message as long as the context' 0 '.' '' sh -c "echo 1234567890123456789 | $C $E --context 20 -q"
expect 'a message as long as the context: an answer' [ "$(wc -m <"$T/out")" -eq 13 ]
check 'a character that the model lacks' 1 '.' 'is not in the' sh -c "printf 'Ω\nOnce\n' | $C $E"
expect 'a character that the model lacks: the rest goes on' cmp -s "$T/twelve" "$T/out"
mkdir "$T/repaired"
cp "$TEXT"/* "$T/repaired"
sed 's/"ü"/"\xEF\xBF\xBD"/' "$TEXT/tokenizer.json" >"$T/repaired/tokenizer.json"
check 'a message of ill-formed UTF-8' 0 "^$(printf 'O\357\277\275n')" \
    '^The message holds 1 ill-formed UTF-8 sequence, read as U+FFFD.$' sh \
    -c "printf 'O\377n\n/show\n' | $D chat $T/repaired -n 3 $E"
check 'a context beyond the model' 2 '' '--context: found 5000, expected at most 4096 (max_position_embeddings)' sh \
    -c "$C --context 5000 </dev/null"
check 'closed standard input' 1 '' '^deepseek chat: standard input: ' sh -c "$C <&-"
check 'a folder on standard input' 1 '' '^deepseek chat: standard input: Is a directory$' sh -c "$C <$T"
check 'a reader that leaves' 0 '.' '' sh -c "printf 'Once\\nupon\\n' | $D chat $TEXT -n 100000000 $E -q | head -c 20"
check 'no model' 1 '' 'nowhere' sh -c "$D chat $T/nowhere </dev/null"
if [ -c /dev/full ]; then check 'a full disk' 1 '*' 'standard output: No space left on device' sh \
    -c "printf 'Once\nupon\n' | $C >/dev/full"; fi
# SIGTERM in an answer ends it.
mkfifo "$T/pipe"
{ echo Once; exec sleep 300; } >"$T/pipe" &
writer=$!
$D chat "$TEXT" -n 100000000 $E <"$T/pipe" >"$T/stream" 2>"$T/err" &
until_true [ -s "$T/stream" ]
kill -TERM $!
wait $!
expect 'SIGTERM: exit code' [ $? -eq 1 ]
expect 'SIGTERM: message' grep -q '^deepseek chat: interrupted$' "$T/err"
kill $writer 2>/dev/null
finish
