#!/bin/sh
# Every benchmark, each with the limit measured in the same run and, where it is installed, its peer. Called by `make bench`.
# On a shared machine run it twice and compare; DEEPSEEK_ISA=avx2|avx512|amx repeats it for another variant.
set -u
BUILD=${BUILD:-build}
DEEPSEEK=${DEEPSEEK:-./deepseek}
case $DEEPSEEK in */*) ;; *) DEEPSEEK=./$DEEPSEEK ;; esac   # a file of this folder, not a command of the search path

title() { printf '\n== %s\n' "$1"; }

title 'matrix products (GFLOP/s, share of the peak)'
"$BUILD/bench/matmul"
if [ -x "$BUILD/bench/matmul_onednn" ]; then
    title 'the same shapes in oneDNN'
    "$BUILD/bench/matmul_onednn"
else
    echo 'oneDNN is not installed (Debian: libdnnl-dev): no comparison'
fi
title 'attention'
"$BUILD/bench/attention"
title 'kernels by rows (GB/s, share of the memory speed)'
"$BUILD/bench/rows"
title 'one training step, 2 x 1024 tokens'
for type in fp32 bf16; do "$BUILD/bench/train_step" bench/configs/v1-124m.json $type; done
if python3 -c 'import torch, transformers' 2>/dev/null; then
    for type in fp32 bf16 autocast; do python3 bench/torch_step.py bench/configs/v1-124m.json $type; done
else
    echo 'PyTorch and transformers are not installed: no comparison'
fi
title 'from the start of the program to the first token, and what packing behind it costs (1 GB of bf16 weights)'
"$BUILD/bench/first_token" "$DEEPSEEK" bench/configs/v1-490m.json
title 'decoding and prefill, bf16 weights larger than the caches'
"$DEEPSEEK" bench bench/configs/v1-1b.json --compute bf16
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
