#!/usr/bin/env python3
"""The peer of train_step: one training step of transformers' model on random tokens, in the same form.

    pip install torch==2.13.0 transformers==5.23.0
    python3 bench/torch_step.py CONFIG.json fp32|bf16|autocast [sequences length steps]

fp32 and autocast keep weights, gradients and moments in fp32, as train_step does; bf16 keeps all of them in bf16.
"""
import json, resource, statistics, sys, time

try:
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, logging
except ImportError as missing:
    sys.exit(f"torch_step.py: {missing}; see the first lines of this file")
if len(sys.argv) < 3 or sys.argv[2] not in ("fp32", "bf16", "autocast"):
    sys.exit(__doc__)
path, mode = sys.argv[1:3]
sequences, length, steps = [int(x) for x in (sys.argv[3:6] + ["2", "1024", "5"][len(sys.argv) - 3:])]
logging.set_verbosity_error()
torch.manual_seed(0)
keys = json.load(open(path))
keys.pop("torch_dtype", None)
model = AutoModelForCausalLM.from_config(LlamaConfig(**keys), attn_implementation="sdpa", dtype=torch.bfloat16 if mode == "bf16" else torch.float32)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
ids = torch.randint(model.config.vocab_size, (sequences, length))
times = []
for _ in range(steps + 1):   # the first warms up
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
        loss = model(ids, labels=ids, use_cache=False).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    times.append(time.perf_counter() - start)
step = statistics.median(times[1:])
size = 2 if mode == "bf16" else 4
count = sum(p.numel() for p in model.parameters())
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(f"torch_step {path} {mode}, PyTorch {torch.__version__}, {torch.get_num_threads()} threads: {sequences * length / step:.1f} tokens/s, {step:.3f} s")
print(f"  memory: peak {peak / 1e9:.3f} GB; beyond its parameters, gradients and moments ({4 * size} bytes per parameter): {(peak - 4 * size * count) / 1e9:.3f} GB")
