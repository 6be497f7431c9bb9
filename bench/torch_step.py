#!/usr/bin/env python3
"""The peer of train_step: one training step of transformers' model on random tokens, in the same form.

    pip install torch==2.13.0 transformers==5.23.0
    python3 bench/torch_step.py CONFIG.json fp32|bf16|autocast [sequences length steps [eager|grouped_mm]]

fp32 and autocast keep weights, gradients and moments in fp32, as train_step does; bf16 keeps all of them in bf16. The
last argument is how experts are computed: one after the other,
or by PyTorch's grouped product.
"""
import json, resource, statistics, sys, time

try:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, logging
except ImportError as missing:
    sys.exit(f"torch_step.py: {missing}; see the first lines of this file")
if not 3 <= len(sys.argv) <= 7 or sys.argv[2] not in ("fp32", "bf16", "autocast"):
    sys.exit(__doc__)
path, mode, *rest = sys.argv[1:]
sequences, length, steps, experts = [
    int(x) if x.isdigit() else x for x in rest + ["2", "1024", "5", "grouped_mm"][len(rest) :]
]
logging.set_verbosity_error()
torch.manual_seed(0)
keys = json.load(open(path))
keys.pop("torch_dtype", None)
config = AutoConfig.for_model(**keys)
options = {"experts_implementation": experts} if keys.get("n_routed_experts") else {}
model = AutoModelForCausalLM.from_config(
    config, attn_implementation="sdpa", dtype=torch.bfloat16 if mode == "bf16" else torch.float32, **options
)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
ids = torch.randint(model.config.vocab_size, (sequences, length))
times, passes = [], []
for _ in range(steps + 1):   # the first warms up
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
        loss = model(ids, labels=ids, use_cache=False).loss
    loss.backward()
    passes.append(time.perf_counter() - start)
    optimizer.step()
    optimizer.zero_grad()
    times.append(time.perf_counter() - start)
step = statistics.median(times[1:])
size = 2 if mode == "bf16" else 4
count = sum(p.numel() for p in model.parameters())
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
how = f" {experts}" if options else ""
print(
    f"torch_step {path} {mode}{how}, PyTorch {torch.__version__}, {torch.get_num_threads()} threads: {sequences * length / step:.1f} tokens/s, {step:.3f} s (passes {statistics.median(passes[1:]):.3f})"
)
print(
    f"  memory: peak {peak / 1e9:.3f} GB; beyond its parameters, gradients and moments ({4 * size} bytes per parameter): {(peak - 4 * size * count) / 1e9:.3f} GB"
)
