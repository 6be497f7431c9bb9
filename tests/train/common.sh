# Shared by the scripts of this folder: a scratch folder, a text, checks that count.
set -u
program=${DEEPSEEK:-./deepseek}
[[ -x $program ]] || { echo "$program is not built"; echo "0 passed, 1 failed"; exit 1; }
tiny=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/tiny.json
scratch=$(mktemp -d "${TMPDIR:-/tmp}/deepseek-train-XXXXXX") || exit 1
trap 'chmod -R u+w "$scratch"; rm -rf "$scratch"' EXIT
export XDG_CACHE_HOME=$scratch/cache   # not the user's
passed=0 failed=0

# A text of 8,000 characters: words chosen by a small generator, so that there is something to learn.
awk 'BEGIN { n = split("the cat sat on a mat and the dog ran to the old red house by the sea", w, " "); x = 1;
             for (i = 0; i < 2000; i++) { x = (x * 1103 + 12345) % 65536
                 printf "%s%s", w[int(x / 65536 * n) + 1], (i % 9 == 8) ? ".\n" : " " } }' |
        head -c 8000 >"$scratch/text.txt"

# check NAME COMMAND...: the command must succeed.
check() {
    local name=$1
    shift
    if "$@"; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAIL  $name"; fi
}

# train RUN [OPTION]...
train() { "$program" train "$tiny" --data "$scratch/text.txt" --out "$@"; }

# The same in the background; $pid is the program itself, not a shell around it.
start() {
    "$program" train "$tiny" --data "$scratch/text.txt" --out "$@" >/dev/null 2>&1 &
    pid=$!
}

# refuses NAME CODE TEXT COMMAND...: exit code CODE, TEXT on standard error.
refuses() {
    local name=$1 code=$2 text=$3 found message
    shift 3
    message=$("$@" 2>&1 >/dev/null)
    found=$?
    if [[ $found == "$code" && $message == *"$text"* ]]; then passed=$((passed + 1)); else
        failed=$((failed + 1))
        echo "FAIL  $name: exit $found (expected $code), message: $message"
        echo "      expected in it: $text"
    fi
}

# same RUN REFERENCE: everything but times is equal byte for byte.
same() {
    local step
    step=$(basename "$(ls -d "$2"/checkpoints/step-* | tail -n 1)")
    cmp "$1/metrics.jsonl" "$2/metrics.jsonl" && diff -r "$1/model" "$2/model" && cmp "$1/config.json" \
        "$2/config.json" &&
        cmp "$1/checkpoints/$step/parameters.safetensors" "$2/checkpoints/$step/parameters.safetensors" &&
        cmp "$1/checkpoints/$step/moments.safetensors" "$2/checkpoints/$step/moments.safetensors"
}

finish() {
    echo "$passed passed, $failed failed"
    ((failed == 0))
}
