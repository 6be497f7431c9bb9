#!/bin/sh
# Commands on a model with latent attention and experts: cache types, the two forms of prefill, and a conversation,
# whose cache must hold what a fresh pass would compute.
. "$(dirname "$0")/lib.sh"
D=$DEEPSEEK
LITE=tests/golden/v2-lite FULL=tests/golden/v2
command -v python3 >/dev/null || { echo "skipped: there is no python3 here"; echo "1 passed, 0 failed"; exit 0; }
V2=$T/v2   # with a tokenizer of 64 characters, and the published chat template
mkdir "$V2"
cp $LITE/config.json $LITE/*.safetensors "$V2"
python3 - "$V2" "$T" <<'END' || exit 1
import json, random, sys
characters = sorted(set(map(chr, range(32, 127))) - set("#$%&*+/<=>@[\\]^_`{|}~;0123456789") | {"\n"})
tokenizer = json.load(open("tests/cli/data/characters/tokenizer.json"))
vocab = {c: i for i, c in enumerate(characters)}
for token in tokenizer["added_tokens"]:
    token["id"] = len(vocab)
assert len(vocab) < 80 and tokenizer["model"]["type"] == "WordLevel"
tokenizer["model"]["vocab"] = vocab
json.dump(tokenizer, open(sys.argv[1] + "/tokenizer.json", "w"))
config = json.load(open("tests/cli/data/characters/tokenizer_config.json"))
config["chat_template"] = json.load(open("tests/text/data/chat.json"))["template"]
json.dump(config, open(sys.argv[1] + "/tokenizer_config.json", "w"))
random.seed(1)
json.dump([[random.randrange(80) for _ in range(n)] for n in (1, 17, 64, 150)], open(sys.argv[2] + "/ragged.json", "w"))
END
# The largest and the median difference between the rows of two files of logits.
difference() {
    python3 - "$1" "$2" <<'END'
import array, json, statistics, struct, sys
def load(path):
    data = open(path, "rb").read()
    size, = struct.unpack("<Q", data[:8])
    return json.loads(data[8:8 + size])["logits"]["shape"][-1], array.array("f", data[8 + size:])
(width, a), (_, b) = load(sys.argv[1]), load(sys.argv[2])
rows = [max(abs(x - y) for x, y in zip(a[r:r + width], b[r:r + width]))
        for r in range(0, len(a), width) if any(a[r:r + width])]
print("%.3g %.3g" % (max(rows), statistics.median(rows)))
END
}
below() { python3 -c "import sys; sys.exit(not float('$1') < float('$2'))"; }

# ---- logits: each cache type has bits of its own, which no cut changes ----
for model in $LITE $FULL; do
    for type in fp32 bf16 fp8; do
        check "$model $type" 0 '' '*' $D logits $model -t "$T/ragged.json" --cache-type $type -o "$T/$type" -q
        for how in '--chunk 1' '--chunk 7' '--chunk 64' '--threads 1' '--threads 3 --chunk 5' '--prefill absorbed'; do
            $D logits $model -t "$T/ragged.json" --cache-type $type $how -o "$T/other" -q
            expect "$model $type $how: the same bytes" cmp -s "$T/$type" "$T/other"
        done
        check "$model $type expanded" 0 '' '*' $D logits $model -t "$T/ragged.json" --cache-type $type \
            --prefill expanded -o "$T/expanded" -q
        expect "$model $type expanded: other bits" [ "$(cksum <"$T/$type")" != "$(cksum <"$T/expanded")" ]
        set -- $(difference "$T/$type" "$T/expanded")
        # of the median row, as an expert may be another one where gates are almost equal
        case $type in fp32) most=1e-5 ;; bf16) most=0.05 ;; fp8) most=0.3 ;; esac
        if [ $type = fp32 ]; then expect "$model expanded: equal to rounding ($1)" below "$1" $most; fi
        expect "$model $type expanded: close ($2)" below "$2" $most
        set -- $(difference "$T/fp32" "$T/$type")
        case $type in fp32) expect "$model: the same" [ "$1" = 0 ] ;; *) expect "$model $type: rounds ($2)" below "$2" \
            $most && expect "$model $type: does round" below 1e-4 "$2" ;; esac
    done
    check "$model without --cache-type" 0 '' '*' $D logits $model -t "$T/ragged.json" -o "$T/other" -q
    expect "$model without --cache-type: the compute type's" cmp -s "$T/fp32" "$T/other"
    # Single tokens are absorbed in any case.
    $D logits $model -t "$T/ragged.json" --prefill expanded --chunk 1 -o "$T/other" -q
    expect "$model expanded, one by one: the bits of decoding" cmp -s "$T/fp32" "$T/other"
done

# ---- the other commands ----
echo 'The quick brown fox jumps over the lazy dog and sits down again near the water.' >"$T/text.txt"
for type in fp32 bf16 fp8; do
    for form in absorbed expanded; do
        check "eval $type $form" 0 '^{"loss": ' '' $D eval "$V2" -d "$T/text.txt" --cache-type $type --prefill $form \
            -q --json
        check "generate $type $form" 0 '.' '' $D generate "$V2" -p 'The quick' -n 8 --cache-type $type --prefill $form \
            -q
        check "bench $type $form" 0 "\"cache\": \"$type\"" '' $D bench "$V2" --prompt 8 --gen 2 -r 1 \
            --cache-type $type --prefill $form -q --json
    done
done

# ---- a conversation: its cache, in every type, holds what a fresh pass computes ----
nl='
'
E='--logit-bias 0=-inf --logit-bias 1=-inf'   # no line end, no end of text
for type in fp32 bf16 fp8; do
    C="$D chat $V2 -q -n 12 --temperature 0 $E --cache-type $type"
    O="-q -n 12 --temperature 0 $E --cache-type $type"
    printf 'Hello\nwrong\n/undo\nYou?\n' | $C --system 'Be kind.' >"$T/out" 2>"$T/err"
    expect "chat $type: no warning, V2 knows system texts" [ ! -s "$T/err" ]
    sed -n 1p "$T/out" >"$T/first"
    $D generate "$V2" --chat --system 'Be kind.' -p Hello $O >"$T/alone"
    expect "chat $type: the first answer" cmp -s "$T/first" "$T/alone"
    # The second one from a file: the whole conversation in one pass. The answer's text gives its ids again here, where
    # a character is a token.
    raw=$($D generate "$V2" -p "Be kind.$nl${nl}User: Hello$nl${nl}Assistant:" $O)
    $D generate "$V2" \
        --special -p "Be kind.$nl${nl}User: Hello$nl${nl}Assistant:$raw<|endoftext|>User: You?$nl${nl}Assistant:" $O \
        | sed '1s/^ //' >"$T/alone"
    tail -n +3 "$T/out" >"$T/second"
    expect "chat $type: the second answer, after /undo" cmp -s "$T/second" "$T/alone"
done
# A format's tokens must be in the model's vocabulary.
mkdir "$T/beyond"
cp $LITE/config.json $LITE/model.safetensors tests/cli/data/characters/* "$T/beyond"
check 'a format whose token the model lacks' 1 '' \
    'chat format v1 needs token 106 of the tokenizer, expected at most 100 (the model.s vocabulary)$' $D chat \
    "$T/beyond" --chat-format v1
finish
