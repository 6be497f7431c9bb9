#!/bin/sh
# Command lines: help, wrong options and values, exit codes, and where the output goes.
. "$(dirname "$0")/lib.sh"
D=$DEEPSEEK

check 'no command' 2 '' '^usage: deepseek COMMAND' $D
check 'version' 0 '^deepseek [0-9]' '' $D --version
check 'overview' 0 '^  generate ' '' $D --help
check 'overview, short' 0 '^  generate ' '' $D -h
check 'overview, as a command' 0 '^  generate ' '' $D help
check 'help on help' 0 '^  generate ' '' $D help help
check 'help, twice over' 0 '^  generate ' '' $D help --help
check 'unknown command' 2 '' '^deepseek: unknown command `genrate`, did you mean `generate`?' $D genrate
check 'unknown command, nothing near' 2 '' '^deepseek: unknown command `xyzzy` (see' $D xyzzy
check 'help on an unknown command' 2 '' 'unknown command `evil`, did you mean `eval`?' $D help evil
check 'option before the command' 2 '' 'unknown option --threads before a command' $D --threads 2 generate
check 'version as a command' 2 '' 'unknown command `version`, did you mean `--version`?' $D version
check 'a mistyped option before the command' 2 '' 'unknown option --verison before a command, did you mean --version?' \
    $D --verison
check 'overview: what the environment decides' 0 'DEEPSEEK_THREADS=N' '' $D --help

for command in train generate chat eval bench info quantize logits grads steps; do
    check "$command --help" 0 "^usage: deepseek $command " '' $D $command --help
    expect "$command --help: examples" grep -q "^  deepseek $command " "$T/out"
    expect "$command --help: options" grep -q -e '-h, --help' "$T/out"
    expect "$command --help: defaults" grep -q '(default' "$T/out"
    cp "$T/out" "$T/help"
    expect "$command --help: 80 columns, commands apart" [ "$(awk 'length > 80 && !/^  deepseek /' "$T/help" | wc -l)" \
        -eq 0 ]
    for file in $(grep -o -e 'configs/[A-Za-z0-9._-]*' -e 'data/[A-Za-z0-9._-]*' "$T/help"); do expect \
        "$command --help: $file exists" [ -e "$file" ]; done
    check "help $command" 0 "^usage: deepseek $command " '' $D help $command
    expect "help $command is $command --help" cmp -s "$T/out" "$T/help"
    check "$command: an operand is missing" 2 '' "^deepseek $command: .*is missing" $D $command
    check "$command: unknown option" 2 '' \
        "^deepseek $command: unknown option --thread_s, did you mean --threads? (see .deepseek $command --help.)$" $D \
        $command x --thread_s
    check "$command: unknown letter" 2 '' "unknown option -Z" $D $command x -Z
    check "$command: --help wins" 0 "^usage: deepseek $command " '' $D $command --nonsense --help
    check "$command: a value is missing" 2 '' '--threads needs a value: N' $D $command x --threads
    check "$command: a value that is no number" 2 '' '--threads: found `two`, expected an integer from 0 to 1024' $D \
        $command x --threads two
    check "$command: a number with a tail" 2 '' '--threads: found `2x`' $D $command x --threads 2x
    check "$command: an empty number" 2 '' '--threads: found ``' $D $command x --threads=
    check "$command: a blank before a number" 2 '' '--threads: found ` 2`' $D $command x --threads ' 2'
    check "$command: a number out of range" 2 '' '--threads: found `1025`, expected an integer from 0 to 1024' $D \
        $command x --threads 1025
    check "$command: a number beyond 64 bits" 2 '' '--threads: found `99999999999999999999`' $D $command x \
        --threads 99999999999999999999
    check "$command: a value for --help" 2 '' '--help: found `yes`, expected nothing, man, json' $D $command x \
        --help=yes
done
for command in train generate chat eval bench info logits grads steps; do
    check "$command: a compute type that is not there" 2 '' '--compute: found `fp4`, expected fp32, bf16 or fp8' $D \
        $command x --compute fp4
done

check 'a required option' 2 '' '--tokens is missing: an array of arrays' $D logits "$MODEL" -o "$T/x"
check 'one operand too many' 2 '' 'unexpected argument `more`' $D info "$MODEL" more
check 'options end at --' 2 '' 'unexpected argument `--json`' $D info "$MODEL" -- --json
check 'options after operands, and = for values' 0 '"model_type"' '*' $D info "$MODEL" --json --context=16
check 'a flag with a value' 2 '' '--json takes no value' $D info "$MODEL" --json=1
check 'abbreviated' 0 '"model_type"' '*' $D info "$MODEL" --js
check 'abbreviated too much' 2 '' '--to is short for more than one option: --tokens, --top-k, --top-p (see' $D \
    generate "$MODEL" --to 1
check 'abbreviated too much, --help among them' 2 '' '--he is short for more than one option: --held-out, --help (see' \
    $D eval "$MODEL" --he
check 'generate: nothing to continue' 2 '' 'give --prompt, --file or --tokens' $D generate "$MODEL"
check 'generate: two prompts' 2 '' 'exclude each other' $D generate "$MODEL" -p a --file b
check 'generate: a temperature that is none' 2 '' '--temperature: found `nan`, expected a number from 0 to 1000' $D \
    generate "$MODEL" -p a --temperature nan
check 'generate: a negative temperature' 2 '' '--temperature: found `-1`' $D generate "$MODEL" -p a --temperature -1
check 'generate: a hexadecimal number' 2 '' '--top-p: found `0x1p-1`' $D generate "$MODEL" -p a --top-p 0x1p-1
check 'generate: top-p above one' 2 '' '--top-p: found `1.01`, expected a number from 0 to 1' $D generate "$MODEL" \
    -p a --top-p 1.01
check 'generate: a negative seed' 2 '' '--seed: found `-1`, expected an integer of at least 0' $D generate "$MODEL" \
    -p a --seed -1
check 'bench: nothing to measure' 2 '' 'leaves nothing to measure' $D bench "$MODEL" --prompt 0 --gen 0
check 'bench: a bad depth in a list' 2 '' '--depth: found `x`' $D bench "$MODEL" --depth 0,x
check 'bench: an empty depth in a list' 2 '' '--depth: found ``' $D bench "$MODEL" --depth 0,,1

# What the pages and the demo name exists too.
for file in $(grep -ohE '(bench/)?configs/[A-Za-z0-9_-]*\.json' README.md docs/*.md tools/demo.sh | sort -u); do
    expect "the pages: $file exists" [ -e "$file" ]; done

# ---- standard output: full, closed, a pipe that nobody reads ----
for command in '--help' 'help generate' '--version' "info $MODEL"; do
    if [ -c /dev/full ]; then
        $D $command >/dev/full 2>"$T/err"
        expect "$command >/dev/full: exit code" [ $? -eq 1 ]
        expect "$command >/dev/full: message" grep -q '^deepseek: standard output: No space left on device$' "$T/err"
    fi
    $D $command >&- 2>"$T/err"
    expect "$command >&-: exit code" [ $? -eq 1 ]
    expect "$command >&-: message" grep -q '^deepseek: standard output: ' "$T/err"
    unread $D $command 2>"$T/err"
    expect "$command | (closed): exit code" [ $? -eq 1 ]
    expect "$command | (closed): quiet" [ "$(grep -vc warning "$T/err")" = 0 ]
done
check 'closed standard error' 1 '' '' sh -c "$D info nowhere 2>&-"
check 'closed standard input' 1 '' 'standard input' sh -c "$D generate $TEXT -p - <&-"
finish
