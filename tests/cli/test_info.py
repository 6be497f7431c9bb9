#!/usr/bin/env python3
"""deepseek info: every official shape has its published figures (spec/v1-v3.md sections 1, 2.7 and 8.1), plans are made
of the same figures, and two models are set side by side as V2's paper does."""

import json
import os
import re
import resource
import subprocess
import sys
import tempfile

PROGRAM = os.environ["DEEPSEEK"]
ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
passed = failed = 0


def check(name, condition, told=""):
    global passed, failed
    passed, failed = passed + bool(condition), failed + (not condition)
    if not condition:
        print(f"FAIL  {name} {str(told)[:300]}")


def run(*arguments):
    return subprocess.run(
        [PROGRAM, "info", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=ROOT
    )


def report(name, *arguments):
    done = run(f"configs/{name}.json" if os.sep not in name else name, "--json", *arguments)
    check(f"info {name} {' '.join(arguments)}", done.returncode == 0 and not done.stderr, done.stderr)
    return json.loads(done.stdout) if done.returncode == 0 else None


# name: parameters, active, active without the input embedding, layers, cache elements per token, of them of a layer
OFFICIAL = {
    "deepseek-llm-7b": (6_910_365_696, 6_910_365_696, 6_490_935_296, 30, 245_760),
    "deepseek-llm-67b": (67_425_001_472, 67_425_001_472, 66_586_140_672, 95, 194_560),
    "deepseek-moe-16b": (16_375_728_128, 2_828_650_496, 2_618_935_296, 28, 114_688),
    "deepseek-v2-lite": (15_706_484_224, 2_661_150_208, 2_451_435_008, 27, 15_552),
    "deepseek-v2": (235_741_434_880, 21_375_800_320, 20_851_512_320, 60, 34_560),
    "deepseek-v3": (671_026_419_200, 37_552_297_472, 36_625_618_432, 61, 35_136),
}
for name, (parameters, active, without, layers, cache) in OFFICIAL.items():
    d = report(name, "--context", "4096", "--compute", "bf16")
    if d is None:
        continue
    latent, fp8, dense = (
        name.startswith(("deepseek-v2", "deepseek-v3")),
        name == "deepseek-v3",
        3 if name == "deepseek-v3" else 1,
    )
    check(
        f"{name}: parameters",
        (d["parameters"], d["active_parameters"], d["active_without_embedding"]) == (parameters, active, without),
        d,
    )
    check(
        f"{name}: layers",
        len(d["layers"]) == layers and all(l["attention"] == ("mla" if latent else "gqa") for l in d["layers"]),
    )
    check(
        f"{name}: experts",
        (
            [l["ffn"] for l in d["layers"]] == ["dense"] * layers
            if "llm" in name
            else [l["ffn"] for l in d["layers"]] == ["dense"] * dense + ["moe"] * (layers - dense)
        ),
    )
    bytes_per_token = {"fp32": 4 * cache, "bf16": 2 * cache} | (
        {"fp8": layers * (512 + 4 * 4 + 2 * 64)} if latent else {}
    )
    check(
        f"{name}: cache per token",
        d["cache_elements_per_token"] == cache and d["cache_bytes_per_token"] == bytes_per_token,
        d["cache_bytes_per_token"],
    )
    for kind, size in bytes_per_token.items():   # what is allocated is the closed form
        plan = report(name, "--context", "4096", "--compute", "bf16", "--cache-type", kind)["inference_bytes"]
        check(f"{name}: cache of 4096 tokens in {kind}", plan["cache"] == 4096 * size, plan)
        check(
            f"{name}: sum of the memory for inference",
            plan["total"] == sum(plan[key] for key in ("weights", "embedding", "cache", "step")),
            plan,
        )
    # weights in bf16 (plain C packs them as fp32; the router is fp32), a little more where panels are padded or MLA's
    # views are rounded up
    weights, without_table = d["inference_bytes"]["weights"], parameters - d["inference_bytes"]["embedding"] // 2
    check(
        f"{name}: bytes of the weights",
        any(width * without_table <= weights < 1.01 * width * parameters for width in ((1, 4) if fp8 else (2, 4))),
        weights,
    )
    train = d["training_bytes"]
    check(
        f"{name}: trained at 4096 tokens",
        train["length"] == 4096
        and train["parameters"] == 4 * (parameters + (d["mtp"]["parameters"] if fp8 else 0))
        and train["step"] > 0,
        train,
    )
    # the pass of the plan does what the closed form says, and computes the attention's scores once more in the backward
    closed = 4096 * d["flops_per_token"]["training"]
    check(
        f"{name}: FLOPs of a planned step",
        closed < d["training_flops_per_micro_batch"] < 1.1 * closed,
        (closed, d["training_flops_per_micro_batch"]),
    )
    # 2 FLOPs for each number that a token meets, and the attention: 2 heads (2 x 512 + 64) per key, absorbed
    forward = d["flops_per_token"]
    keys = {
        "deepseek-llm-7b": 32 * 256,
        "deepseek-llm-67b": 64 * 256,
        "deepseek-moe-16b": 16 * 256,
        "deepseek-v2-lite": 16 * 1088,
        "deepseek-v2": 128 * 1088,
        "deepseek-v3": 128 * 1088,
    }[name]
    check(
        f"{name}: FLOPs of the attention",
        forward["forward_full_context"] - forward["forward_empty_context"] == 2 * layers * keys * 4095,
        forward,
    )
    check(
        f"{name}: FLOPs of the matrices",
        0.998 * 2 * without < forward["forward_empty_context"] < 2.01 * without,
        forward,
    )
# V3's files on the hub hold the module of multi-token prediction with copies of embedding and head, and one number for
# each 128 x 128 codes (688.6 GB in all)
d = report("deepseek-v3", "--context", "4096")
check(
    "V3's module",
    (d["mtp"]["parameters"], d["mtp"]["parameters_with_copies"], d["mtp"]["parameters_of_checkpoint"])
    == (11_610_068_224, 13_463_426_304, 684_489_845_504),
    d["mtp"],
)
check("V3 in FP8", 688.5e9 < d["fp8_bytes"] + d["mtp"]["fp8_bytes"] < 688.7e9, d["fp8_bytes"])
check(
    "V3 plans a byte for each weight",
    0.99 < d["inference_bytes"]["weights"] / d["fp8_bytes"] < 1.01,
    d["inference_bytes"],
)
check(
    "the modules are trained where their loss has a weight",
    report(
        "deepseek-v3",
        "--context",
        "4096",
        "--set",
        "train.steps=1",
        "--set",
        "train.sequence_length=4096",
        "--set",
        "train.loss.mtp=0.3",
    )["training_flops_per_micro_batch"]
    > 1.01 * d["training_flops_per_micro_batch"],
)
text = run("configs/deepseek-v3.json", "--context", "4096").stdout
for line in (
    "layers 3-60    attention mla: 128 heads of 128 + 64 and 128, latent 512, of queries 1536; ffn moe: 8 of 256 experts of 2048 from 4 of 8 groups, 1 shared",
    "layer 61       multi-token prediction; attention mla",
    "671 026 419 200",
    "36 625 618 432; it is looked up, not multiplied: the paper counts this way",
    "11 610 068 224",
    "13 463 426 304",
    "684 489 845 504",
    "checkpoint in FP8",
):
    check(f"the table of V3 says {line}", line in text, text)
# all children so far: 28,800 expert matrices are only described
check(
    "no plan takes 256 MiB",
    resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 256 << 10,
    resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss,
)

d = report("deepseek-v2", "--against", "configs/deepseek-llm-67b.json")["against"]
check(
    "the abstract's figures",
    round(d["cache_reduction"]["equal_precision"], 4) == 0.8224
    and round(d["cache_reduction"]["6_bits_against_16"], 4) == 0.9334,
    d["cache_reduction"],
)
v2, v1 = d["models"]
check(
    "both models",
    (v2["name"], v1["name"], v2["parameters"], v1["parameters"])
    == ("deepseek-v2", "deepseek-llm-67b", 235_741_434_880, 67_425_001_472),
    d,
)
check("compared at one length", d["context"] == 4096 and d["length"] == 4096)
check(
    "hours as published",
    (v2["published_h800_hours_per_trillion_tokens"], v1["published_h800_hours_per_trillion_tokens"])
    == (172_800, 300_600),
    d,
)
check(
    "V3's hours",
    [
        m["published_h800_hours_per_trillion_tokens"]
        for m in report("deepseek-v3", "--against", "configs/deepseek-v2.json")["against"]["models"]
    ]
    == [180_000, 172_800],
)
check(
    "a step costs the same on both sides",
    v1["training_flops_per_token"] == report("deepseek-llm-67b")["flops_per_token"]["training"],
)
check(
    "no hours where none were published",
    not any(
        "hours" in key
        for m in report("deepseek-v2-lite", "--against", "configs/deepseek-llm-7b.json")["against"]["models"]
        for key in m
    ),
)
check(
    "another context and length",
    (lambda a: (a["context"], a["length"]))(
        report("deepseek-v2", "--against", "configs/deepseek-llm-67b.json", "--context", "9000", "--length", "500")[
            "against"
        ]
    )
    == (9000, 500),
)
text = run("configs/deepseek-v2.json", "--against", "configs/deepseek-llm-67b.json").stdout
for line in (
    r"cache elements per token +34 560 +194 560 +82.2% less",
    r"cache per token, 6 bits against 16 .*93.3% less",
    r"H800 hours for 10\^12 tokens, as published +172 800 +300 600 +42.5% less",
    r"parameters +236 G +67.4 G +3.5 times",
):
    check(f"the table says {line}", re.search(line, text), text[-900:])
for line in (
    "layers 1-59    attention mla: 128 heads of 128 + 64 and 128, latent 512, of queries 1536; ffn moe: 6 of 160 experts of 1536 from 3 of 8 groups, 2 shared",
    "YaRN, factor 40 on a context of 4096",
):
    check(f"the plan says {line}", line in text, text)

# YaRN from the command line: in V2 as published, with rope_scaling null, and beside what transformers writes
with tempfile.TemporaryDirectory() as tmp:
    config = json.load(open(os.path.join(ROOT, "configs/deepseek-v2-lite.json")))
    yarn = config.pop("rope_scaling")
    sets = [part for key, value in yarn.items() for part in ("--set", f"rope_scaling.{key}={value}")]
    for spelling in (
        {"rope_scaling": None},
        {},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        {"train": {"steps": 3, "sequence_length": 8}},
    ):
        path = os.path.join(tmp, "config.json")
        json.dump(config | spelling, open(path, "w"))
        check(f"no YaRN: {spelling}", "YaRN" not in run(path).stdout)
        done = run(path, *sets)
        check(f"YaRN by --set: {spelling}", "YaRN, factor 40 on a context of 4096" in done.stdout, done.stderr)
    done = run(path, "--set", "rope_scaling.factor=40")
    check("half of it is refused", done.returncode and "rope_scaling.type" in done.stderr, done.stderr)

for arguments, word in (
    (["configs/deepseek-llm-7b.json", "--cache-type", "fp8"], "--cache-type"),
    (["configs/deepseek-moe-16b.json", "--prefill", "expanded"], "--prefill"),
    (["configs/deepseek-v2.json", "--against", "nothing.json"], "nothing.json"),
    (["configs/deepseek-v2.json", "--set", "n_group=7"], "n_group 7"),
    (["configs/deepseek-v2.json", "--set", "num_experts_per_tok=61"], "at most 60"),
    (["configs/deepseek-v2.json", "--set", "topk_method=noaux_tc"], "noaux_tc"),
    (
        ["configs/deepseek-v3.json", "--set", "model_type=deepseek_v32", "--set", "architectures=null"],
        "sparse attention",
    ),
    (["configs/deepseek-v3.json", "--set", "n_group=256", "--set", "topk_group=8"], "two experts"),
):
    done = run(*arguments)
    check(
        f"refused: {arguments}",
        done.returncode and word in done.stderr and len(done.stderr.splitlines()) == 1 and not done.stdout,
        done.stderr,
    )
print(f"{passed} passed, {failed} failed")
sys.exit(failed > 0)
