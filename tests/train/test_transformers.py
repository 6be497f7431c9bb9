#!/usr/bin/env python3
"""A model folder that train writes is one that transformers loads, with the same logits (1e-5 of their norm, fp32): V1
and V2, with and without the queries' low rank, groups of experts and YaRN.
V3 too, whose MTP module transformers passes over, also after `quantize` to FP8 and back. The way back: what
transformers saves is read, and trained on with YaRN.

The comparison belongs to the long tests and runs where PyTorch and transformers are installed; else only the folder's
JSON files are checked."""
import json, math, os, subprocess, sys, tempfile

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")   # it tells of every tensor of MTP modules
torch = None
if os.environ.get("TEST_LONG"):
    try:
        import torch
        from transformers import AutoModelForCausalLM
    except ImportError:
        pass

PROGRAM, HERE = os.environ.get("DEEPSEEK", "./deepseek"), os.path.dirname(os.path.abspath(__file__))
TEXT = "the quick brown fox jumps over the lazy dog. pack my box with five dozen liquor jugs.\n" * 60
TOKENS = [[i % 20 + 1 for i in range(32)], [3, 1, 4, 1, 5]]
passed = failed = 0


def check(what, ok, figure=""):
    global passed, failed
    passed, failed = passed + bool(ok), failed + (not ok)
    if not ok:
        print(f"FAIL  {what} {figure}")
    return bool(ok)


def run(*arguments):
    return subprocess.run([PROGRAM, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True)


def logits_of(path):
    with open(path, "rb") as f:
        n = int.from_bytes(f.read(8), "little")
        entry, data = json.loads(f.read(n))["logits"], f.read()
    begin, end = entry["data_offsets"]
    return torch.frombuffer(bytearray(data[begin:end]), dtype=torch.float32).view(entry["shape"])


def tensors_of(folder):
    """name -> (dtype, bytes)"""
    with open(os.path.join(folder, "model.safetensors"), "rb") as f:
        n = int.from_bytes(f.read(8), "little")
        entries, data = json.loads(f.read(n)), f.read()
    return {
        name: (entry["dtype"], data[slice(*entry["data_offsets"])])
        for name, entry in entries.items()
        if name != "__metadata__"
    }


def same_logits(what, folder, at):
    """This program's logits of a folder and those of transformers."""
    if torch is None:
        return
    ours = run("logits", folder, "--tokens", at("tokens.json"), "--compute", "fp32", "-o", at("logits.safetensors"))
    if not check(f"{what}: logits", ours.returncode == 0, ours.stderr):
        return
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    check(
        f"{what}: the class",
        type(model).__name__ == json.load(open(os.path.join(folder, "config.json")))["architectures"][0],
        type(model),
    )
    # of MTP; it knows those of layer 61 alone
    modules = f"model.layers.{json.load(open(os.path.join(folder, 'config.json')))['num_hidden_layers']}."
    strange = [key for key in info["unexpected_keys"] if not key.startswith(modules)]
    check(
        f"{what}: every tensor has its place",
        not any(info[key] for key in ("missing_keys", "mismatched_keys")) and not strange,
        info,
    )
    got = logits_of(at("logits.safetensors"))
    for row, ids in enumerate(TOKENS):
        with torch.no_grad():
            theirs = model(torch.tensor([ids])).logits[0]
        error = (got[row, : len(ids)] - theirs).norm() / theirs.norm()
        check(f"{what}: the same logits", math.isfinite(error) and error < 1e-5, f"off by {error:.1e}")


TINY = json.load(open(os.path.join(HERE, "tiny.json")))
LATENT = {
    "architectures": ["DeepseekV2ForCausalLM"],
    "model_type": "deepseek_v2",
    "num_hidden_layers": 3,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
}
EXPERTS = {
    "n_routed_experts": 12,
    "n_shared_experts": 2,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
}
GROUPS = {
    "n_group": 4,
    "topk_group": 2,
    "topk_method": "group_limited_greedy",
    "routed_scaling_factor": 16.0,
    "norm_topk_prob": False,
    "scoring_func": "softmax",
}
V3 = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "num_nextn_predict_layers": 1,
    "n_group": 4,
    "topk_group": 2,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
}
# positions up to 31, far past the original context; both mscale factors as published
YARN = {
    "type": "yarn",
    "factor": 4,
    "original_max_position_embeddings": 8,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 0.707,
    "mscale_all_dim": 0.707,
}
# name: what is added to tiny.json, the type that is stored
MODELS = {
    "v1": ({}, "float32"),
    "v1-bf16": ({}, "bfloat16"),
    "v2": (LATENT | EXPERTS | GROUPS | {"q_lora_rank": 20, "rope_scaling": YARN}, "float32"),
    "v2-bf16": (LATENT | EXPERTS | GROUPS | {"q_lora_rank": 20, "rope_scaling": YARN}, "bfloat16"),
    "v2-lite": (LATENT | EXPERTS | {"q_lora_rank": None, "rope_scaling": YARN}, "float32"),
    "v2-plain": (LATENT | EXPERTS | {"rope_scaling": None, "rope_theta": 500.0}, "float32"),
    # the two factors differ: cos and sin are scaled
    "v2-amplitude": (LATENT | EXPERTS | {"rope_scaling": YARN | {"mscale": 1.0}}, "float32"),
    "v2-mscale-absent": (
        LATENT | EXPERTS | {"rope_scaling": {k: v for k, v in YARN.items() if "mscale" not in k}},
        "float32",
    ),
    "v2-modern": (
        LATENT | EXPERTS | {"rope_theta": None, "rope_parameters": YARN | {"rope_type": "yarn", "rope_theta": 500.0}},
        "float32",
    ),
    "v3": (
        LATENT | EXPERTS | V3 | {"q_lora_rank": 20, "rope_scaling": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0}},
        "float32",
    ),
    "v3-bf16": (LATENT | EXPERTS | V3 | {"q_lora_rank": 20, "rope_scaling": None}, "bfloat16"),
    "v3-plain": (LATENT | EXPERTS | V3 | {"num_nextn_predict_layers": 0, "n_group": 1, "topk_group": 1}, "float32"),
    "v2-dense": (LATENT | {"q_lora_rank": 20, "n_routed_experts": None}, "float32"),
}

with tempfile.TemporaryDirectory() as tmp:
    at = lambda name: os.path.join(tmp, name)
    open(at("text.txt"), "w").write(TEXT)
    json.dump(TOKENS, open(at("tokens.json"), "w"))
    folder_of = lambda name: os.path.join(at(name), "model")
    config_of = lambda folder: json.load(open(os.path.join(folder, "config.json")))
    for name, (keys, dtype) in MODELS.items():
        json.dump(TINY | keys, open(at("config.json"), "w"))
        made = run(
            "train",
            at("config.json"),
            "--data",
            at("text.txt"),
            "--out",
            at(name),
            "--quiet",
            "--set",
            f"train.dtype={dtype}",
            "--set",
            "train.steps=20",
        )
        if not check(f"train, {name}", made.returncode == 0, made.stderr):
            continue
        config = config_of(folder_of(name))
        check(
            f"{name}: config.json names the model",
            config["architectures"] == (TINY | keys)["architectures"]
            and config["dtype" if "rope_parameters" in keys else "torch_dtype"] == dtype,
            config,
        )
        if config["model_type"] == "deepseek_v3":
            tensors = tensors_of(folder_of(name))
            biases, copies = [n for n in tensors if n.endswith(".e_score_correction_bias")], [
                "model.layers.3.embed_tokens.weight",
                "model.layers.3.shared_head.head.weight",
            ]
            check(
                f"{name}: the gates' biases are F32 and have moved",
                len(biases) == 2 + keys["num_nextn_predict_layers"]
                and all(tensors[n][0] == "F32" and any(tensors[n][1]) for n in biases),
                biases,
            )
            check(
                f"{name}: the module's copies of embedding and head",
                [n in tensors for n in copies] == 2 * [keys["num_nextn_predict_layers"] == 1]
                and all(
                    tensors[n] == tensors[original]
                    for n, original in zip(copies, ("model.embed_tokens.weight", "lm_head.weight"))
                    if n in tensors
                ),
            )
        check(
            f"{name}: rope_scaling as it was given",
            config.get("rope_scaling") == keys.get("rope_scaling")
            and config.get("rope_parameters") == keys.get("rope_parameters"),
            config,
        )
        check(
            f"{name}: the keys of the model",
            all(config[key] == value for key, value in keys.items() if value is not None)
            and ("kv_lora_rank" not in keys or "q_lora_rank" in config),
            config,
        )
        check(
            f"{name}: generation_config.json",
            "eos_token_id" in json.load(open(os.path.join(folder_of(name), "generation_config.json"))),
        )
        same_logits(name, folder_of(name), at)

    # In FP8 and back: what transformers would dequantise to itself, if it had accelerate.
    made = [
        run("quantize", folder_of("v3"), "--to", "fp8", "--out", at("v3-fp8")),
        run("quantize", at("v3-fp8"), "--to", "bf16", "--out", at("v3-back")),
    ]
    if check("quantize, and back", not any(p.returncode for p in made), made):
        check(
            "quantize: the tokenizer and the generation config go along",
            {"tokenizer.json", "generation_config.json"}
            <= set(os.listdir(at("v3-fp8"))) & set(os.listdir(at("v3-back"))),
        )
        same_logits("v3-back", at("v3-back"), at)

    # A short-context model is extended by YaRN: rope_scaling comes from the command line.
    sets = [part for key, value in YARN.items() for part in ("--set", f"rope_scaling.{key}={value}")]
    made = run(
        "train",
        "--from",
        folder_of("v2-plain"),
        "--data",
        at("text.txt"),
        "--out",
        at("extended"),
        "--quiet",
        *sets,
        "--set",
        "train.steps=5",
        "--set",
        "train.sequence_length=32",
        "--set",
        "train.batch_size=2",
        "--set",
        "max_position_embeddings=32",
    )
    if check("train --from, with YaRN", made.returncode == 0, made.stderr):
        config = config_of(folder_of("extended"))
        check(
            "extended: rope_scaling is written", config["rope_scaling"] == YARN and config["rope_theta"] == 500, config
        )
        same_logits("extended", folder_of("extended"), at)

    # The way back: transformers saves the plain model in its own spelling; that is read, and extended, too.
    if torch is not None:
        import shutil

        model = AutoModelForCausalLM.from_pretrained(folder_of("v2-plain"), dtype=torch.float32)
        model.save_pretrained(at("theirs"))
        for file in os.listdir(folder_of("v2-plain")):
            if file.startswith("tokenizer"):
                shutil.copy(os.path.join(folder_of("v2-plain"), file), at("theirs"))
        check("transformers writes another spelling", "rope_parameters" in config_of(at("theirs")))
        same_logits("theirs", at("theirs"), at)
        made = run(
            "train",
            "--from",
            at("theirs"),
            "--data",
            at("text.txt"),
            "--out",
            at("theirs-extended"),
            "--quiet",
            *sets,
            "--set",
            "train.steps=5",
            "--set",
            "train.sequence_length=32",
            "--set",
            "train.batch_size=2",
            "--set",
            "max_position_embeddings=32",
        )
        if check("train --from theirs, with YaRN", made.returncode == 0, made.stderr):
            config = config_of(folder_of("theirs-extended"))
            check(
                "theirs-extended: in transformers' spelling",
                "rope_scaling" not in config
                and config["rope_parameters"]["rope_type"] == "yarn"
                and config["rope_parameters"]["rope_theta"] == 500,
                config,
            )
            same_logits("theirs-extended", folder_of("theirs-extended"), at)
print(f"{passed} passed, {failed} failed")
sys.exit(failed > 0)
