#!/usr/bin/env python3
"""Is a change slower? Runs two builds in turn, old, new, old, new, ..., and prints the medians of what both measured
and the median of the ratios pair by pair: a decoded token, a prefill of 512 tokens, and training steps.

    tools/compare-speed.py OLD NEW [-n PAIRS] [PART...]

OLD, NEW  two checkouts in which `make bench-build` has run
PART      what to measure, all of it unless named: decoding (and prefill) of CONFIG in a type, or steps of it, as in
          `decode:configs/v1-124m.json:bf16` and `step:bench/configs/v3-moe.json:fp8`

Machines are shared: a ratio counts, not a time; run it twice where it is near to what matters. The memory that a step
takes beyond parameters, gradients and moments is printed beside it, and does not depend on the machine's mood."""
import argparse, json, os, re, statistics, subprocess, sys

PARTS = ["decode:configs/v1-124m.json:bf16", "decode:configs/v1-124m.json:fp32"]
PARTS += ["decode:bench/configs/v3-moe.json:bf16"]
PARTS += [f"step:bench/configs/{config}.json:{type}" for config in ("v1-124m", "v2-moe", "v3-moe")
          for type in ("fp32", "bf16", "fp8")]
PARTS.remove("step:bench/configs/v1-124m.json:fp8")


def run(checkout, command):
    done = subprocess.run(command, cwd=checkout, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{checkout}: {' '.join(command)}: exit {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.stdout


def measure(checkout, part):
    """Names of figures (tokens per second; planned GB) and their values."""
    kind, config, type = part.split(":")
    if kind == "decode":
        out = json.loads(run(checkout, ["./deepseek", "bench", config, "--compute", type, "--prompt", "512",
                                        "--gen", "48", "--repeat", "1", "--quiet", "--json"]))["results"][0]
        return {"decoding": out["decoding"]["tokens_per_second"], "prefill": out["prefill"]["tokens_per_second"]}
    out = run(checkout, ["build/bench/train_step", config, type, "2", "512", "4"])
    step = re.search(r"([0-9.]+) tokens/s, [0-9.]+ s \(passes", out)
    memory = re.search(r"planned ([0-9.]+) GB .*step ([0-9.]+)\)", out)
    return {"step": float(step.group(1)), "planned GB": float(memory.group(1)), "step GB": float(memory.group(2))}


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("old")
parser.add_argument("new")
parser.add_argument("parts", nargs="*", default=PARTS, metavar="PART")
parser.add_argument("-n", type=int, default=7, metavar="PAIRS")
options = parser.parse_intermixed_args()
print(f"{'':44}{'old':>10}{'new':>10}  new : old (median of {options.n} pairs, least, most)")
for part in options.parts:
    pairs = [(measure(options.old, part), measure(options.new, part)) for _ in range(options.n)]
    for figure in pairs[0][0]:
        old, new = ([pair[side][figure] for pair in pairs] for side in (0, 1))
        ratios = sorted(b / a for a, b in zip(old, new))
        print(f"{part + ' ' + figure:44}{statistics.median(old):10.4g}{statistics.median(new):10.4g}"
              f"  {statistics.median(ratios):.3f}   {ratios[0]:.3f}  {ratios[-1]:.3f}", flush=True)
