# Shared by the scripts beside it: runs the program and compares exit code, output and messages. POSIX sh alone.
#
#   check NAME CODE OUT ERR COMMAND...    OUT and ERR: a basic regular expression that standard output and standard
#   error must hold,
#                                         '' for "must be empty", '*' for anything
# $T is a fresh folder, $MODEL a model folder without a tokenizer, $TEXT one with the tokenizer of characters (both
# golden/v1-gqa).

: "${DEEPSEEK:?the path of the program}"
cd "$(dirname "$0")/../.." || exit 1
passed=0 failed=0
T=$(mktemp -d) || exit 1
trap 'rm -rf "$T"' EXIT
trap 'exit 1' HUP INT TERM
export XDG_CACHE_HOME="$T/cache"   # not the user's
MODEL=tests/golden/v1-gqa
TEXT=$T/characters
mkdir "$TEXT"
cp $MODEL/config.json $MODEL/model.safetensors tests/cli/data/characters/* "$TEXT"

ok() { passed=$((passed + 1)); }
bad() {
    failed=$((failed + 1))
    echo "FAIL  $1"
    shift
    for line; do echo "      $line"; done
}
holds() { # FILE PATTERN
    case $2 in
        '*') return 0 ;;
        '') [ ! -s "$1" ] ;;
        *) grep -q -e "$2" "$1" ;;
    esac
}
# On a busy machine anything may take the ten seconds after which progress is told in a line; no message is one.
without_progress() { # FILE
    sed -i -E '/^(lines|encode|decode|prompt|generate|eval|logits|steps|quantize|stories|train|count|merge|tokenise|check tokens) +([0-9]+%|[0-9.]+ [KMGT]? ?[a-z]+)  [0-9.]+ [KMGT]? ?[a-z]+\/s/d' "$1"
}
check() {
    _name=$1 _code=$2 _out=$3 _err=$4
    shift 4
    "$@" >"$T/out" 2>"$T/err"
    _got=$?
    without_progress "$T/err"
    if [ $_got -ne "$_code" ]; then bad "$_name" "exit code $_got, expected $_code" "$(head -c 400 "$T/err")"
    elif ! holds "$T/out" "$_out"; then bad "$_name" "standard output does not hold '$_out':" "$(head -c 400 "$T/out")"
    elif ! holds "$T/err" "$_err"; then bad "$_name" "standard error does not hold '$_err':" "$(head -c 400 "$T/err")"
    else ok; fi
}
# A command whose standard output is a pipe that its only reader has left.
unread() {
    [ -p "$T/unread" ] || mkfifo "$T/unread"
    { exec 7<&-; "$@" >&8 8>&-; } 7<>"$T/unread" 8>"$T/unread"
}
# Waits for a condition, a minute at most: until_true COMMAND...
until_true() {
    _waited=0
    until "$@" || [ $_waited -eq 1200 ]; do sleep 0.05; _waited=$((_waited + 1)); done
}
# A condition: test NAME COMMAND...
expect() {
    _name=$1
    shift
    if "$@"; then ok; else bad "$_name" "$*"; fi
}
finish() {
    echo "$passed passed, $failed failed"
    [ $failed -eq 0 ]
}
