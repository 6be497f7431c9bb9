#!/bin/sh
# chat and generate --chat with a format around messages: prompts to the byte, what a full context drops, what messages
# cannot do. (tests/text/test_chat.c: the ids.)
. "$(dirname "$0")/lib.sh"
command -v python3 >/dev/null || { echo "skipped: there is no python3 here"; echo "1 passed, 0 failed"; exit 0; }
D=$DEEPSEEK
E='--logit-bias 106=-inf --logit-bias 1=-inf --logit-bias 0=-inf'   # no end of text, no line end
CHAT=$T/chat   # a model folder with the published template
mkdir "$CHAT"
cp "$TEXT"/* "$CHAT"
python3 - "$CHAT/tokenizer_config.json" <<'END' || exit 1
import json, sys
config = json.load(open(sys.argv[1]))
config["chat_template"] = json.load(open("tests/text/data/chat.json"))["template"]
json.dump(config, open(sys.argv[1], "w"))
END
same() { # what generate makes of a text in which special tokens count
    $D generate "$TEXT" -q --special -p "$1" -n "${2:-12}" $E
}
nl='
'

# ---- generate --chat: the published prompt, to the byte ----
same "User: Hello$nl${nl}Assistant:" >"$T/expected"
check '--chat' 0 '.' '' $D generate "$CHAT" -q --chat -p Hello -n 12 $E
expect '--chat: its prompt' cmp -s "$T/expected" "$T/out"
check '--chat --chat-format v1 of a base model' 0 '.' '' $D generate "$TEXT" -q --chat --chat-format v1 -p Hello -n 12 \
    $E
expect '--chat --chat-format v1: the same' cmp -s "$T/expected" "$T/out"
for end in '\n' '\r\n' ''; do
    check "--chat from a pipe, '$end'" 0 '.' '' sh -c "printf 'Hello$end' | $D generate $CHAT -q --chat -n 12 $E"
    expect "--chat from a pipe, '$end': one line end is no part of it" cmp -s "$T/expected" "$T/out"
    printf "Hello$end" >"$T/message"
    check "--chat from a file, '$end'" 0 '.' '' $D generate "$CHAT" -q --chat --file "$T/message" -n 12 $E
    expect "--chat from a file, '$end': the same" cmp -s "$T/expected" "$T/out"
done
same "User: Hello$nl$nl${nl}Assistant:" >"$T/expected"
check '--chat -p with a line end' 0 '.' '' $D generate "$CHAT" -q --chat -p "Hello$nl" -n 12 $E
expect '--chat -p with a line end: is a part of it' cmp -s "$T/expected" "$T/out"
same "Be kind.$nl${nl}User: Hello$nl${nl}Assistant:" >"$T/expected"
check '--system' 0 '.' 'warning: --system: models before V2 were not trained with a system text' $D generate "$CHAT" \
    --chat --system 'Be kind.' -p Hello -n 12 $E
expect '--system: in front' cmp -s "$T/expected" "$T/out"
same "User: $nl${nl}Assistant:" >"$T/expected"
check 'an empty message' 0 '.' '' $D generate "$CHAT" -q --chat -p '' -n 12 $E
expect 'an empty message: its prompt' cmp -s "$T/expected" "$T/out"
check '--samples' 0 '^--- sample 2 of 2$' '' $D generate "$CHAT" -q --chat -p Hello -n 12 $E --samples 2
check '--json' 0 '"stopped": "length"' '' $D generate "$CHAT" -q --chat -p Hello -n 12 $E --json
# The blank behind "Assistant:" is the format's.
check 'the blank' 0 '^xxx$' '' $D generate "$CHAT" -q --chat -p Hello -n 3 --logit-bias x=1000
blank=$($D tokenize encode "$CHAT" -p ' ' 2>/dev/null | tr -dc '0-9')
check 'the blank: ids keep it' 0 "^{\"text\": \"  \", \"ids\": \[$blank, $blank, $blank\], \"stopped\": \"length\"}$" \
    '' $D generate "$CHAT" -q --chat -p Hello -n 3 --ignore-eos --logit-bias "$blank=1000" --json
check 'the blank: streaming' 0 '^  $' '' $D generate "$CHAT" -q --chat -p Hello -n 3 \
    --ignore-eos --logit-bias "$blank=1000"
check 'the blank: further samples' 0 '^  $' '' $D generate "$CHAT" -q --chat -p Hello -n 3 \
    --ignore-eos --logit-bias "$blank=1000" --samples 2
expect 'the blank: all of them' [ "$(grep -c '^  $' "$T/out")" -eq 2 ]

# ---- a message is text ----
$D generate "$CHAT" -q --chat -p 'a<|endoftext|>b' -n 12 $E >"$T/plain"
same "User: a<|endoftext|>b$nl${nl}Assistant:" >"$T/special"
expect 'a marker in a message is text' [ "$(cat "$T/plain")" != "$(cat "$T/special")" ]
$D generate "$TEXT" -q -p "User: a<|endoftext|>b$nl${nl}Assistant:" -n 12 $E >"$T/expected"
expect 'a marker in a message: its characters' cmp -s "$T/plain" "$T/expected"

# ---- a full context: the message stays ----
check 'a full context' 0 '.' 'is full; going on with the message and its last [0-9]*$' sh \
    -c "$D generate $CHAT --chat -p Hello -n 5000 $E 2>&1 >$T/long | grep warning >&2; tail -c 9 $T/long"
expect 'a full context: the whole answer' [ "$(wc -m <"$T/long")" -ge 5000 ]
head -c 2500 /dev/zero | tr '\0' a >"$T/half"
check 'a message of more than half of the context' 0 '*' \
    'warning: the context of 4096 tokens is full, and the message takes more than half of it: the answer ends here$' \
    $D generate "$CHAT" --chat -f "$T/half" -n 3000 $E
expect 'a message of more than half of the context: the answer up to there' [ "$(wc -m <"$T/out")" \
    -eq $((4096 - 2518 + 2)) ]   # "User: " and so on are 18 more; the last token is never fed; a line end

# ---- V3, R1, V3.1: markers, reasoning, calls of tools ----
# characters and the markers of the formats: 107 BOS, 108 USR, 109 AST, 110 <think>, 111 </think>, then those of tools
MARK=$T/markers
mkdir "$MARK"
cp "$TEXT"/* "$MARK"
python3 - "$MARK" <<'END' || exit 1
import json, sys
folder = sys.argv[1]
t = json.load(open(folder + "/tokenizer.json"))
names = ["<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"] + ["<｜tool▁%s｜>" % n for n in
         ("calls▁begin", "calls▁end", "call▁begin", "call▁end", "sep",
          "outputs▁begin", "outputs▁end", "output▁begin", "output▁end")]
for i, name in enumerate(names):
    t["added_tokens"].append({"id": 107 + i, "content": name, "single_word": False, "lstrip": False, "rstrip": False,
                              "normalized": i > 0, "special": i == 0})
json.dump(t, open(folder + "/tokenizer.json", "w"))
json.dump({"bos_token": names[0], "eos_token": "<|endoftext|>"}, open(folder + "/tokenizer_config.json", "w"))
END
marked() { # what generate makes of a text with these markers in it
    $D generate "$MARK" -q --special -p "$1" -n 12 $E
}
BOS='<｜begin▁of▁sentence｜>' USR='<｜User｜>' AST='<｜Assistant｜>'
prompt_of() { # NAME FORMAT TEXT OPTIONS...: the ids are those behind this prompt
    name=$1 format=$2 text=$3
    shift 3
    marked "$text" >"$T/expected"
    check "--chat-format $format: $name" 0 '.' '' $D generate "$MARK" -q --chat --chat-format $format -p Hello -n 12 \
        $E --json "$@"
    expect "--chat-format $format: $name, its prompt" \
        [ "$(python3 -c 'import json, sys; sys.stdout.write(json.load(open(sys.argv[1]))["text"])' "$T/out")" \
        = "$(cat "$T/expected")" ]
}
prompt_of 'a message' v3 "$BOS${USR}Hello$AST"
prompt_of 'a system text' v3 "${BOS}Be kind.${USR}Hello$AST" --system 'Be kind.'
prompt_of 'a message' r1-0528 "$BOS${USR}Hello$AST"
prompt_of 'a message' r1 "$BOS${USR}Hello$AST<think>$nl"
prompt_of 'a message' v3.1 "$BOS${USR}Hello$AST</think>"
prompt_of '--thinking off' v3.1 "$BOS${USR}Hello$AST</think>" --thinking off
prompt_of '--thinking on' v3.1 "$BOS${USR}Hello$AST<think>" --thinking on
# What the model says is forced: the most likely token of those that were not said yet.
say() { # FORMAT TOKENS OPTIONS...: generate --chat with these tokens in this order
    format=$1 tokens=$2 bias=2900 count=0
    shift 2
    biases=
    for token in $tokens; do
        biases="$biases --logit-bias $token=$bias"
        bias=$((bias - 25)) count=$((count + 1))
    done
    $D generate "$MARK" -q --chat --chat-format $format -p Hello -n $count --temperature 0 --presence-penalty 1000 \
        $biases "$@"
}
parts() { # NAME OUTPUT FORMAT TOKENS OPTIONS...
    name=$1
    printf '%s\n' "$2" >"$T/expected"
    shift 2
    check "$name" 0 '.' '' say "$@"
    expect "$name: its parts" cmp -s "$T/expected" "$T/out"
}
parts 'reasoning' "[thinking]${nl}a$nl[answer]${nl}b" r1 'a 111 b'
parts 'reasoning whose beginning is written' "[thinking]${nl}a$nl[answer]${nl}b" r1-0528 '110 a 111 b'
parts 'reasoning whose beginning is not written' "a$nl[answer]${nl}b" r1-0528 'a 111 b'
parts 'reasoning that is cut off' "[thinking]${nl}ab" r1 'a b'
parts 'no reasoning' 'ab' v3.1 'a b'
parts 'a call' "[thinking]${nl}a$nl[answer]${nl}b$nl[call] f(x)" v3.1 'a 111 b 112 114 f 116 x 115 113' --thinking on
parts 'a call that is cut off' "[call] f(x ... (cut off)" v3.1 '112 114 f 116 x'
parts 'samples' \
    "--- sample 1 of 2$nl[thinking]${nl}a$nl[answer]${nl}b$nl--- sample 2 of 2$nl[thinking]${nl}a$nl[answer]${nl}b" r1 \
    'a 111 b' --samples 2
parts 'a stop string' "[thinking]${nl}a$nl[answer]${nl}b" r1 'a 111 b c d' --stop cd
parts '--json' '{"text": "a</think>b<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>x<｜tool▁call▁end｜>", "reasoning": "a", "content": "b", "tool_calls": [{"name": "f", "arguments": "x"}], "ids": [66, 111, 67, 112, 114, 71, 116, 89, 115], "stopped": "length"}' \
    r1 'a 111 b 112 114 f 116 x 115' --json
parts '--json with a stop string' \
    '{"text": "a</think>b", "reasoning": "a", "content": "b", "tool_calls": [], "ids": [66, 111, 67, 68, 69], "stopped": "stop"}' r1 'a 111 b c d' --json --stop cd
# The history of a conversation has no reasoning.
talk() { $D chat "$MARK" --chat-format "$@" -n 3 --temperature 0 --presence-penalty 1000 --logit-bias a=2900 \
    --logit-bias 111=2850 --logit-bias b=2800; }
printf 'Hi\nyou\n/show\n' >"$T/lines"
# BOS USR H i AST b EOS USR y o u AST <think> line-end, and a </think> b
check 'chat: the history drops reasoning' 0 '^Thinking: a$' '^2 messages, 17 of 4096 tokens$' talk r1 <"$T/lines"
printf 'Hi\n/think off\nyou\n/show\n' >"$T/lines"
check 'chat: /think off' 0 '^Assistant: a</think>b$' '^The model does not reason before it answers.$' talk v3.1 \
    --thinking on <"$T/lines"
expect 'chat: /think off: from then on' [ "$(head -n 5 "$T/out")" = "[thinking]${nl}a$nl[answer]${nl}b${nl}a</think>b" ]
echo '/think maybe' >"$T/lines"
check 'chat: /think maybe' 1 '' '/think: found `maybe`, expected on or off' talk v3.1 <"$T/lines"
echo '/think on' >"$T/lines"
check 'chat: /think of R1' 1 '' '/think: chat format r1 always reasons' talk r1 <"$T/lines"
check 'chat: /think of V3' 1 '' '/think: chat format v3 does not reason' talk v3 <"$T/lines"
check '--thinking of R1' 2 '' '--thinking: chat format r1 of this model always reasons' $D generate "$MARK" \
    --chat --chat-format r1 --thinking on -p x
check '--thinking without --chat' 2 '' '--thinking is for --chat' $D generate "$MARK" --thinking on -p x
check '--system of R1' 0 '.' 'warning: --system: R1 was not trained with a system text' $D generate "$MARK" \
    --chat --chat-format r1 --system x -p x -n 2
check 'a format without its markers' 2 '' '--chat-format: the tokenizer has no token <｜User｜>, and format v3 needs it' \
    $D generate "$TEXT" --chat --chat-format v3 -p x
python3 - "$MARK/tokenizer_config.json" <<'END' || exit 1
import json, sys
config = json.load(open(sys.argv[1]))
config["chat_template"] = ("{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{{ bos_token }}{%- for message in messages %}{%- if message['role'] == 'user' %}"
    "{{'<｜User｜>' + message['content']}}{%- else %}{%- set content = message['content'].split('</think>')[-1] %}{{'<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>'}}{%- endif %}{%- endfor %}"
    "{% if add_generation_prompt %}{{'<｜Assistant｜><think>\\n'}}{% endif %}")
json.dump(config, open(sys.argv[1], "w"))
END
prompt_of "the folder's template" auto "$BOS${USR}Hello$AST<think>$nl"

# ---- what is refused ----
check '--chat of a base model' 2 '' '--chat: this model has no chat template' $D generate "$TEXT" --chat -p x
check '--chat --chat-format plain' 2 '' '--chat: this model has no chat template' $D generate "$CHAT" \
    --chat --chat-format plain -p x
check '--chat --echo' 2 '' '--echo is for texts that are continued' $D generate "$CHAT" --chat --echo -p x
check '--chat --special' 2 '' '--special is for texts that are continued' $D generate "$CHAT" --chat --special -p x
check '--chat --tokens' 2 '' '--chat is for texts, not for --tokens' $D generate "$CHAT" --chat -t "$T/none.json"
check '--system without --chat' 2 '' '--system is for --chat' $D generate "$CHAT" --system x -p x
check '--chat-format without --chat' 2 '' '--chat-format is for --chat' $D generate "$CHAT" --chat-format v1 -p x
check 'chat --system of a base model' 2 '' \
    '--system: found a text, and chat format plain of this model has no place for one' $D chat "$TEXT" --system x
check 'chat --system that does not fit' 2 '' \
    '--system: found a text that begins a conversation with 40 tokens, expected less than 30 (the context)' $D chat \
    "$CHAT" -q --system 12345678901234567890 --context 30
check 'chat --system with an unknown character' 2 '' '--system: the system text: byte 1: the character' sh \
    -c "$D chat $CHAT -q --system 'xΩ' </dev/null"
check 'a message with an unknown character' 2 '' '^deepseek generate: --prompt: byte 1: the character' $D generate \
    "$CHAT" --chat -p 'xΩ'
mkdir "$T/later"
cp "$TEXT"/* "$T/later"
echo '{"eos_token": "<|endoftext|>", "chat_template": "{{ \"<｜User｜>\" }}"}' >"$T/later/tokenizer_config.json"
for command in 'chat' 'generate --chat -p x'; do
    check "$command: the template of another generation" 1 '' 'later/tokenizer_config.json: the chat template is like that of DeepSeek-V2.5 or V3 (it writes <｜User｜>), expected one of V1 to V3.1; --chat-format plain continues text as it stands$' \
        $D ${command%% *} "$T/later" ${command#"${command%% *}"}
done
check 'the template of another generation, forced' 0 '.' '' sh \
    -c "echo Once | $D chat $T/later -q -n 3 $E --chat-format plain"
echo '{"chat_template": "{{ 1 }}"}' >"$T/later/tokenizer_config.json"
check 'an unknown template' 1 '' 'the chat template is not known' $D chat "$T/later"
check 'a format without its token' 2 '' \
    '--chat-format: the tokenizer has no token that ends a text, and format v1 ends answers with it' $D chat \
    "$T/later" --chat-format v1

# ---- chat: what the model sees of a conversation is the published rendering, the answers' own ids kept ----
C="$D chat $CHAT -q -n 12 $E"
first=$(same "User: Hello$nl${nl}Assistant:")
second=$(same "User: Hello$nl${nl}Assistant:$first<|endoftext|>User: You?$nl${nl}Assistant:")
check 'two messages' 0 '.' '' sh -c "printf 'Hello\nYou?\n' | $C"
expect 'two messages: each behind the whole conversation' [ "$(cat "$T/out")" = "$first$nl$second" ]
with=$(same "Be kind.$nl${nl}User: Hello$nl${nl}Assistant:")
more=$(same "Be kind.$nl${nl}User: Hello$nl${nl}Assistant:$with<|endoftext|>User: You?$nl${nl}Assistant:")
check 'a system text' 0 '.' '' sh -c "printf 'Hello\nYou?\n' | $C --system 'Be kind.'"
expect 'a system text: once, in front' [ "$(cat "$T/out")" = "$with$nl$more" ]
check '/show' 0 '^System: Be kind.$' '^2 messages, [0-9]* of 4096 tokens$' sh \
    -c "printf 'Hello\nYou?\n/show\n' | $D chat $CHAT -n 12 $E --system 'Be kind.'"
expect '/show: all of it' [ "$(tail -n 5 "$T/out")" \
    = "System: Be kind.${nl}User: Hello${nl}Assistant: $with${nl}User: You?${nl}Assistant: $more" ]
check 'an empty line goes on' 0 '.' '' sh -c "printf 'Hello\n\n' | $C"
expect 'an empty line goes on: the same answer' [ "$(tr -d '\n' <"$T/out")" \
    = "$(same "User: Hello$nl${nl}Assistant:" 24)" ]
check 'an empty line goes on, then a message' 0 '.' '' sh -c "printf 'Hello\n\nYou?\n' | $C -n 6"
expect 'an empty line goes on, then a message: as if at once' [ "$(sed -n 3p "$T/out")" \
    = "$(printf '%s' "$second" | cut -c 1-6)" ]
check 'an empty line at the beginning' 0 '' '^There is no answer yet' sh -c "printf '\n' | $D chat $CHAT"
check 'an empty line after a finished answer' 0 '' '^The answer is finished' sh \
    -c "printf 'Hello\n\n' | $D chat $CHAT --logit-bias 106=1000"
check 'an end of text: no part of the count' 0 'User: Hello' '^1 message, 23 of 4096 tokens$' sh \
    -c "printf 'Hello\n/show\n' | $D chat $CHAT --logit-bias 106=1000"   # "User: Hello\n\nAssistant:" has 23 characters
check '/undo' 0 '.' '' sh -c "printf 'Hello\nanother\n/undo\nYou?\n' | $C"
expect '/undo: as if it had not been' [ "$(tail -n 1 "$T/out")" = "$second" ]
check '/edit' 0 '.' '' sh -c "printf 'Hello\nanother\n/edit You?\n' | $C"
expect '/edit: as if it had been said at once' [ "$(tail -n 1 "$T/out")" = "$second" ]
check '/retry' 0 '.' '' sh -c "printf 'Hello\n/retry\n/retry\n' | $C"
$D generate "$CHAT" -q --chat -p Hello -n 12 $E --samples 3 >"$T/samples"
expect '/retry: the samples of generate' [ "$(sed '/^--- /d' "$T/samples")" = "$(cat "$T/out")" ]
check '/reset' 0 '.' '' sh -c "printf 'Never\n/reset\nHello\nYou?\n' | $C --system 'Be kind.'"
expect '/reset: the system text stays' [ "$(tail -n 2 "$T/out")" = "$with$nl$more" ]
check 'a marker in a message' 0 '.' '' sh -c "printf 'a<|endoftext|>b\n' | $C"
expect 'a marker in a message: is text' cmp -s "$T/plain" "$T/out"

# ---- saving and loading ----
check '/save' 0 '.' "talk.json: 2 messages saved$" sh \
    -c "printf 'Hello\nYou?\n/save $T/talk.json\n' | $D chat $CHAT -n 12 $E --system 'Be kind.'"
expect '/save: the system text' grep -q '"system": "Be kind."' "$T/talk.json"
check '/load' 0 '.' '' sh -c "printf 'Else\n/load $T/talk.json\n/show\n/undo\nYou?\n/retry\n' | $C"
expect '/load: the same' [ "$(sed -n 2,6p "$T/out")" \
    = "System: Be kind.${nl}User: Hello${nl}Assistant: $with${nl}User: You?${nl}Assistant: $more" ]
# An answer that is text again begins behind the blank that the template writes; the model's own begins with what it
# chose.
again=$(same "Be kind.$nl${nl}User: Hello$nl${nl}Assistant: $with<|endoftext|>User: You?$nl${nl}Assistant:")
expect '/load: what follows' [ "$(sed -n 7p "$T/out")" = "$again" ]
check '/load, then /retry' 0 '.' '' sh -c "printf '/load $T/talk.json\n/undo\n/retry\n' | $C"
expect '/load, then /retry: another answer to the first message' [ "$(cat "$T/out")" \
    = "$($D generate "$CHAT" -q --chat --system 'Be kind.' -p Hello -n 12 $E --samples 2 | tail -n 1)" ]
check '/load with a system text into a plain one' 1 '' \
    'talk.json: system: found a text, and chat format plain has no place for one' sh \
    -c "printf '/load $T/talk.json\n' | $D chat $TEXT"
echo '{"system": 5, "turns": []}' >"$T/wrong.json"
check '/load of a system text that is none' 1 '' 'wrong.json: system: found no string' sh \
    -c "printf '/load $T/wrong.json\n' | $C"
echo '{"turns": [{"message": "Hello", "answer": "You"}]}' >"$T/bare.json"
check '/load without a system text' 0 '^User: Hello' '' sh -c "printf '/load $T/bare.json\n/show\n' | $C --system x"

# ---- a full context loses whole turns ----
check 'a full context' 0 '.' '^The context of 80 tokens is full: its oldest [0-9]* tokens are forgotten.$' sh \
    -c "printf 'Hello\nYou?\nmore\n/show\n' | $D chat $CHAT -n 12 $E --system 'Be kind.' --context 80"
forgotten=$(grep -c 'is full' "$T/err")
expect 'a full context: once' [ "$forgotten" -eq 1 ]
expect 'a full context: lengths' [ "$(head -n 3 "$T/out" | wc -m)" -eq 39 ]
# What is left is BOS, system text and the last message: its most probable answer is that of a conversation that begins
# there.
G='--temperature 0'
check 'a full context, greedy' 0 '.' '' sh -c "printf 'Hello\nYou?\nmore\n' | $C $G --system 'Be kind.' --context 80"
third=$(sed -n 3p "$T/out")
check 'a new conversation, greedy' 0 '.' '' sh -c "printf 'more\n' | $C $G --system 'Be kind.' --context 80"
expect 'a full context: the system text and whole messages stay' [ "$(cat "$T/out")" = "$third" ]
check 'a long answer' 0 '.' '^The context of 80 tokens is full' sh \
    -c "printf 'Hello\nmore\n/show\n' | $D chat $CHAT -n 200 $E --context 80"
expect 'a long answer: all of it' [ "$(head -n 1 "$T/out" | wc -m)" -eq 201 ]
check 'a stop string across a full context' 0 '.' '' sh \
    -c "printf 'Hello\n' | $C -n 200 --context 40 --stop \"\$(printf 'Hello\n' | $C -n 200 --context 40 | cut -c 15-20)\""
expect 'a stop string across a full context: ends there' [ "$(wc -m <"$T/out")" -eq 15 ]
check '/retry after a long answer' 0 '.' '' sh -c "printf 'Hello\n/retry\n/undo\n' | $C -n 200 --context 80"
check 'a message of half of the context' 0 '.' 'and the message takes more than half of it: the answer ends here.$' sh \
    -c "printf '1234567890123456789012345678901234567890\n/undo\nHello\n' | $D chat $CHAT -n 80 $E --context 80"
check 'a message of half of the context, and on' 1 '.' '^deepseek chat: the context is full: /reset, or /undo$' sh \
    -c "printf '1234567890123456789012345678901234567890\n\n' | $D chat $CHAT -n 80 $E --context 80"
check 'a message longer than the context' 1 '' 'the message has [0-9]* tokens, expected less than 40 (the context)' sh \
    -c "printf '1234567890123456789012345678901234567890\n' | $C --context 40"
finish
