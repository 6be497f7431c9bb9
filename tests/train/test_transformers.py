#!/usr/bin/env python3
"""A model folder that train writes is one that transformers loads, with the same logits (1e-5 of their norm, fp32).

The comparison belongs to the long tests and runs where PyTorch and transformers are installed; else only the folder's JSON files are checked."""
import json, math, os, subprocess, sys, tempfile

torch = None
if os.environ.get("TEST_LONG"):
    try:
        import torch
        from transformers import AutoModelForCausalLM
    except ImportError:
        pass

PROGRAM, HERE = os.environ.get("DEEPSEEK", "./deepseek"), os.path.dirname(os.path.abspath(__file__))
TEXT = "the quick brown fox jumps over the lazy dog. pack my box with five dozen liquor jugs.\n" * 60
passed = failed = 0


def check(what, ok, figure=""):
    global passed, failed
    passed, failed = passed + bool(ok), failed + (not ok)
    if not ok:
        print(f"FAIL  {what} {figure}")


def run(*arguments):
    return subprocess.run([PROGRAM, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True)


def logits_of(path):
    with open(path, "rb") as f:
        n = int.from_bytes(f.read(8), "little")
        entry, data = json.loads(f.read(n))["logits"], f.read()
    begin, end = entry["data_offsets"]
    return torch.frombuffer(bytearray(data[begin:end]), dtype=torch.float32).view(entry["shape"])


with tempfile.TemporaryDirectory() as tmp:
    at = lambda name: os.path.join(tmp, name)
    open(at("text.txt"), "w").write(TEXT)
    json.dump([[i % 20 + 1 for i in range(32)], [3, 1, 4, 1, 5]], open(at("tokens.json"), "w"))
    for dtype in ("float32", "bfloat16"):
        made = run("train", os.path.join(HERE, "tiny.json"), "--data", at("text.txt"), "--out", at(dtype), "--quiet", "--set", f"train.dtype={dtype}")
        check(f"train, {dtype}", made.returncode == 0, made.stderr)
        folder = os.path.join(at(dtype), "model")
        config = json.load(open(os.path.join(folder, "config.json")))
        check("config.json names the model", config["architectures"] == ["LlamaForCausalLM"] and config["torch_dtype"] == dtype)
        check("generation_config.json", "eos_token_id" in json.load(open(os.path.join(folder, "generation_config.json"))))
        if torch is None:
            continue
        ours = run("logits", folder, "--tokens", at("tokens.json"), "--compute", "fp32", "-o", at("logits.safetensors"))
        check("logits", ours.returncode == 0, ours.stderr)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        expected, got = [], logits_of(at("logits.safetensors"))
        for row, ids in enumerate(json.load(open(at("tokens.json")))):
            with torch.no_grad():
                theirs = model(torch.tensor([ids])).logits[0]
            error = (got[row, : len(ids)] - theirs).norm() / theirs.norm()
            check(f"{dtype}: the same logits", math.isfinite(error) and error < 1e-5, f"off by {error:.1e}")
print(f"{passed} passed, {failed} failed")
sys.exit(failed > 0)
