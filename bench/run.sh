#!/bin/sh
# Every benchmark, each with the limit measured in the same run and, where it is installed, its peer. Called by `make
# bench`.
#
#   bench/run.sh [SECTION...]      matmul grouped attention rows fp8_error step moe-step v3-step first-token decoding
#   mla fp8 expert-cache tokenizer, in this order; without a name all of them
#
# `make bench T=mla` runs one. On a shared machine run it twice and compare; DEEPSEEK_ISA=avx2|avx512|amx repeats it for
# another variant.
set -u
BUILD=${BUILD:-build}
DEEPSEEK=${DEEPSEEK:-./deepseek}
case $DEEPSEEK in */*) ;; *) DEEPSEEK=./$DEEPSEEK ;; esac   # a file of this folder, not a command of the search path

title() { printf '\n== %s\n' "$1"; }
torch() {
    if python3 -c 'import torch, transformers' 2>/dev/null; then python3 bench/torch_step.py "$@"; else echo \
        'PyTorch and transformers are not installed: no comparison'; fi
}

section_matmul() {
    title 'matrix products (GFLOP/s, share of the peak)'
    "$BUILD/bench/matmul"
    if [ -x "$BUILD/bench/matmul_onednn" ]; then
        title 'the same shapes in oneDNN'
        "$BUILD/bench/matmul_onednn"
    else
        echo 'oneDNN is not installed (Debian: libdnnl-dev): no comparison'
    fi
}
section_grouped() {
    title "grouped products: the experts' forward, dX and dW with cold weights (share of the larger of FLOPs at the peak and bytes at the memory's speed)"
    "$BUILD/bench/grouped"
}
section_attention() {
    title 'attention'
    "$BUILD/bench/attention"
}
section_rows() {
    title 'kernels by rows (GB/s, share of the memory speed)'
    "$BUILD/bench/rows"
}
section_fp8_error() {
    title "products in E4M3: the tensor cores' 14 bits simulated, with and without promotion (errors against fp64)"
    "$BUILD/bench/fp8_error"
}
section_step() {
    title 'one training step of a dense model, 2 x 1024 tokens'
    for type in fp32 bf16; do "$BUILD/bench/train_step" bench/configs/v1-124m.json $type; done
    for type in fp32 bf16 autocast; do torch bench/configs/v1-124m.json $type; done
}
section_moe_step() {
    title 'one training step of a mixture of experts with latent attention, 2 x 1024 tokens, beside its dense twin'
    for type in fp32 bf16; do "$BUILD/bench/train_step" bench/configs/v2-moe.json $type 2 1024 5 \
        bench/configs/v2-moe-dense-twin.json; done
    for type in fp32 bf16; do torch bench/configs/v2-moe.json $type 2 1024 3 grouped_mm; done
}
section_v3_step() {
    title 'one training step of a small V3, 2 x 1024 tokens: fp32, bf16, and fp8 beside bf16'
    for type in fp32 bf16; do "$BUILD/bench/train_step" bench/configs/v3-moe.json $type; done
    "$BUILD/bench/train_step" bench/configs/v3-moe.json fp8 2 1024 5 bf16:bench/configs/v3-moe.json
    for type in fp32 bf16; do torch bench/configs/v3-moe.json $type 2 1024 3 grouped_mm; done
}
section_first_token() {
    title 'from the start of the program to the first token, and what packing behind it costs (1 GB of bf16 weights)'
    "$BUILD/bench/first_token" "$DEEPSEEK" bench/configs/v1-490m.json
}
section_decoding() {
    title 'decoding and prefill, bf16 weights larger than the caches'
    "$DEEPSEEK" bench bench/configs/v1-1b.json --compute bf16
}
section_mla() {
    title 'the shapes of V2-Lite with 16 experts: prefill in both forms, decoding, what a depth adds (10 GB)'
    "$DEEPSEEK" bench bench/configs/v2-lite-16.json --gen 0 --prefill expanded
    "$DEEPSEEK" bench bench/configs/v2-lite-16.json --prompt 0 --gen 32 --repeat 1 --depth 0,1024,4096,16384,65536
    "$DEEPSEEK" bench bench/configs/v2-lite-16.json --prompt 0 --gen 16 --repeat 1 --depth 0,16384 --cache-type fp8
}
section_fp8() {
    title 'the shapes of V2-Lite with 16 experts, weights in FP8 and in bf16: prefill as a share of the bf16 peak, decoding counted in stored bytes (10 GB)'
    for config in v2-lite-16-fp8 v2-lite-16; do "$DEEPSEEK" bench bench/configs/$config.json --gen 32; done
}
section_expert_cache() {
    title 'more weights than memory: decoding with experts read from the file, and what the disk allows (14 GB of disk)'
    bench/expert_cache.sh
}
section_tokenizer() {
    title "the tokenizer of DeepSeek-V4 (texts: this program's sources, and those in \$TEXTS)"
    tokenizer=tests/text/data/deepseek.tokenizer.json
    cat src/*/*.[ch] docs/*.md README.md >"$BUILD/bench/sources.txt"
    "$BUILD/bench/tokenizer" "$tokenizer" "$BUILD/bench/sources.txt" ${TEXTS:-}
    if python3 -c 'import tokenizers' 2>/dev/null; then
        echo 'the same in the tokenizers library:'
        python3 bench/tokenizers_peer.py "$tokenizer" "$BUILD/bench/sources.txt" ${TEXTS:-}
    else
        echo 'the Python package tokenizers is not installed: no comparison'
    fi
}

[ $# -gt 0 ] || set -- matmul grouped attention rows fp8_error step moe-step v3-step first-token decoding mla fp8 \
    expert-cache tokenizer
for name; do
    case $name in
    matmul | grouped | attention | rows | fp8_error | step | decoding | mla | fp8 | tokenizer) "section_$name" ;;
    moe-step) section_moe_step ;;
    v3-step) section_v3_step ;;
    expert-cache) section_expert_cache ;;
    first-token) section_first_token ;;
    *) echo "bench/run.sh: no section $name; see its first lines" >&2; exit 2 ;;
    esac
done
