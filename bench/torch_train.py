#!/usr/bin/env python3
"""The peer of `deepseek train` on small configs: the same training in PyTorch and transformers, and how long a step
takes.

    python3 bench/torch_train.py configs/shakespeare-char.json TEXT [steps]

Characters, AdamW (fused) with decay on matrices, clipping, warm-up and cosine as in the config's `train`; the loss over
the whole held-out end
of the text is printed last. With fewer steps than the config's it only measures.
"""
import json, math, statistics, sys, time

try:
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, logging
except ImportError as missing:
    sys.exit(f"torch_train.py: {missing}; pip install torch==2.13.0 transformers==5.23.0")
if len(sys.argv) < 3:
    sys.exit(__doc__)
config = json.load(open(sys.argv[1]))
text = open(sys.argv[2], encoding="utf-8").read()
train, opt = config.pop("train"), None
o, length, batch = train["optimizer"], train["sequence_length"], train["batch_size"]
steps = int(sys.argv[3]) if len(sys.argv) > 3 else train["steps"]
logging.set_verbosity_error()
torch.manual_seed(train.get("seed", 1))
letters = sorted(set(text))
ids = torch.tensor([letters.index(c) for c in text])
split = int(len(ids) * (1 - train.get("eval_fraction", 0.1)))
config.pop("torch_dtype", None)
config["vocab_size"] = len(letters)
config.setdefault("max_position_embeddings", length)
model = AutoModelForCausalLM.from_config(LlamaConfig(**config), attn_implementation="sdpa", dtype=torch.float32)
decayed = [p for p in model.parameters() if p.dim() > 1]
plain = [p for p in model.parameters() if p.dim() < 2]
opt = torch.optim.AdamW(
    [{"params": decayed, "weight_decay": o.get("weight_decay", 0.1)}, {"params": plain, "weight_decay": 0.0}],
    lr=o["learning_rate"],
    betas=(o.get("beta1", 0.9), o.get("beta2", 0.95)),
    fused=True,
)
warmup, ratio = train["schedule"].get("warmup_steps", 100), train["schedule"].get("min_ratio", 0.1)
times = []
for step in range(1, steps + 1):
    start = time.perf_counter()
    share = (step - warmup) / max(1, train["steps"] - warmup)
    rate = step / warmup if step <= warmup else ratio + (1 - ratio) * (1 + math.cos(math.pi * share)) / 2
    for group in opt.param_groups:
        group["lr"] = o["learning_rate"] * rate
    at = torch.randint(split - length - 1, (batch,))
    x = torch.stack([ids[i : i + length] for i in at])
    y = torch.stack([ids[i + 1 : i + 1 + length] for i in at])
    logits = model(x, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits.view(-1, logits.size(-1)), y.view(-1))
    opt.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), train.get("clip_grad_norm", 1.0))
    opt.step()
    times.append(time.perf_counter() - start)
print(
    f"torch_train {sys.argv[1]}, PyTorch {torch.__version__}, {torch.get_num_threads()} threads: {1e3 * statistics.median(times):.2f} ms per step (median of {steps}), {sum(times):.1f} s in all"
)
if steps == train["steps"]:
    held, total, count = ids[split:], 0.0, 0
    with torch.no_grad():
        for i in range(0, len(held) - 1, length):
            y = held[i + 1 : i + 1 + length]
            logits = model(held[None, i : i + len(y)], use_cache=False).logits[0]
            total += torch.nn.functional.cross_entropy(logits, y, reduction="sum").item()
            count += len(y)
    print(f"  held-out loss {total / count:.4f}")
