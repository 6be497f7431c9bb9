#!/usr/bin/env python3
"""deepseek quantize: the layout of FP8 folders, their error, the same bytes twice and with other threads, the
way back, what is refused, and that nothing half done is left behind."""

import json, math, os, random, resource, shutil, signal, struct, subprocess, sys, tempfile

PROGRAM, HERE = os.environ.get("DEEPSEEK", "./deepseek"), os.path.dirname(os.path.abspath(__file__))
GOLDEN = os.path.join(HERE, "..", "golden")
LINEAR = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "q_a_proj",
    "q_b_proj",
    "kv_a_proj_with_mqa",
    "kv_b_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
)
passed = failed = 0


def check(what, ok, figure=""):
    global passed, failed
    passed, failed = passed + bool(ok), failed + (not ok)
    if not ok:
        print(f"FAIL  {what} {figure}")
    return bool(ok)


def run(*arguments, **more):
    return subprocess.run(
        [PROGRAM, "quantize", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, **more
    )


def refused(what, code, words, *arguments, **more):
    p = run(*arguments, **more)
    check(
        what,
        p.returncode == code and words in p.stderr and not p.stdout,
        f"exit {p.returncode}: {p.stderr.strip()}, expected {code} and '{words}'",
    )


def e4m3(code):
    e, m, sign = code >> 3 & 15, code & 7, -1 if code & 128 else 1
    return math.nan if code & 127 == 127 else sign * (m / 512 if e == 0 else (1 + m / 8) * 2.0 ** (e - 7))


E4M3 = [e4m3(code) for code in range(256)]
f32 = lambda x: struct.unpack("<f", struct.pack("<f", x))[0]


def bf16(x):
    """To nearest even."""
    u = struct.unpack("<I", struct.pack("<f", x))[0]
    return u + 0x7FFF + (u >> 16 & 1) >> 16


def header(path):
    with open(path, "rb") as f:
        n = int.from_bytes(f.read(8), "little")
        return json.loads(f.read(n)), n


def load(folder):
    """name -> (dtype, shape, bytes)"""
    path = os.path.join(folder, "model.safetensors")
    entries, n = header(path)
    with open(path, "rb") as f:
        data = f.read()[8 + n:]
    return {
        name: (t["dtype"], t["shape"], data[slice(*t["data_offsets"])])
        for name, t in entries.items()
        if name != "__metadata__"
    }


def save(path, tensors):
    entries, at = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(entries).encode()
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(t[2] for t in tensors.values()))


def numbers(tensor):
    dtype, _, data = tensor
    if dtype == "BF16":
        return [struct.unpack("<f", b"\0\0" + data[i:i + 2])[0] for i in range(0, len(data), 2)]
    return list(struct.unpack(f"<{len(data) // {'F32': 4, 'F16': 2}[dtype]}{'f' if dtype == 'F32' else 'e'}", data))


def widened(tensors, name):
    """The numbers of an FP8 matrix, exactly."""
    (_, (rows, columns), codes), scales = tensors[name], numbers(tensors[name + "_scale_inv"])
    across = (columns + 127) // 128
    return [
        E4M3[codes[r * columns + c]] * scales[r // 128 * across + c // 128] for r in range(rows) for c in range(columns)
    ]


def check_fp8(name, before, after):
    linear = [n for n in before if n.startswith("model.layers.") and n.rsplit(".", 2)[-2] in LINEAR]
    check(
        f"{name}: its matrices and no others are in FP8",
        linear and sorted(linear) == sorted(n for n in after if after[n][0] == "F8_E4M3"),
    )
    check(f"{name}: every tensor is there, and scales", set(after) == set(before) | {n + "_scale_inv" for n in linear})
    biases = [n for n in before if n.endswith("e_score_correction_bias")]
    check(
        f"{name}: the others are BF16, rounded",
        all(
            after[n][0] == "BF16" and after[n][2] == b"".join(struct.pack("<H", bf16(x)) for x in numbers(before[n]))
            for n in before
            if n not in linear + biases
        ),
    )
    check(f"{name}: biases stay as they are", all(after[n] == before[n] for n in biases))
    for n in linear:
        rows, columns = before[n][1]
        across, x, y, scales = (
            (columns + 127) // 128,
            numbers(before[n]),
            widened(after, n),
            numbers(after[n + "_scale_inv"]),
        )
        good = after[n + "_scale_inv"][:2] == ("F32", [(rows + 127) // 128, across])
        largest = [0.0] * len(scales)
        for i, v in enumerate(x):
            block = i // columns // 128 * across + i % columns // 128
            largest[block] = max(largest[block], abs(v))
        good = good and scales == [f32(a / 448) if a else 1.0 for a in largest]
        # half a step of e4m3: 2^-4 of the number, and 2^-10 of a scale where that is more; fp32 rounds the scale
        for i, v in enumerate(x):
            scale = scales[i // columns // 128 * across + i % columns // 128]
            good = good and abs(v - y[i]) <= max(abs(v) / 16, scale / 1024) * (1 + 1e-6)
        if not check(f"{name}: {n} within half a step, scales amax / 448", good):
            break


def same_folders(what, a, b):
    return check(
        what,
        sorted(os.listdir(a)) == sorted(os.listdir(b))
        and all(open(os.path.join(a, f), "rb").read() == open(os.path.join(b, f), "rb").read() for f in os.listdir(a)),
    )


with tempfile.TemporaryDirectory() as tmp:
    at = lambda name: os.path.join(tmp, name)
    config_of = lambda folder: json.load(open(os.path.join(folder, "config.json")))
    for name in ("v1-gqa", "moe16b", "v2", "v3"):
        old = os.path.join(GOLDEN, name)
        if not os.path.isdir(old):
            continue
        made = run(old, "--to", "fp8", "--out", at(name))
        if not check(f"{name}: quantize", made.returncode == 0 and "matrices in FP8" in made.stdout, made.stderr):
            continue
        before, after = load(old), load(at(name))
        check_fp8(name, before, after)
        config = config_of(at(name))
        quantization = {
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "quant_method": "fp8",
            "weight_block_size": [128, 128],
        }
        if name in ("moe16b", "v2"):
            quantization["modules_to_not_convert"] = ["lm_head", "mlp.gate"]
        check(
            f"{name}: config.json",
            config == config_of(old) | {"torch_dtype": "bfloat16", "quantization_config": quantization},
            config,
        )
        check(
            f"{name}: the weights and the config, nothing else",
            sorted(os.listdir(at(name))) == ["config.json", "model.safetensors"],
            os.listdir(at(name)),
        )
        run(old, "--to", "fp8", "--out", at(name + "-again"), "--threads", "1")
        same_folders(f"{name}: the same bytes again, on one thread", at(name), at(name + "-again"))
        back = run(at(name), "--to", "bf16", "--out", at(name + "-bf16"))
        if check(f"{name}: the way back", back.returncode == 0 and "out of FP8" in back.stdout, back.stderr):
            returned = load(at(name + "-bf16"))
            check(
                f"{name}: back in BF16, without scales",
                set(returned) == set(before)
                and config_of(at(name + "-bf16")) == config_of(old) | {"torch_dtype": "bfloat16"},
            )
            check(
                f"{name}: code x scale, rounded once",
                all(
                    (
                        t[2] == b"".join(struct.pack("<H", bf16(f32(x))) for x in widened(after, n))
                        if after[n][0] == "F8_E4M3"
                        else t == after[n]
                    )
                    for n, t in returned.items()
                ),
            )
        logits = subprocess.run(
            [
                PROGRAM,
                "logits",
                at(name),
                "--tokens",
                os.path.join(old, "tokens.json"),
                "-o",
                at("logits.safetensors"),
                "--compute",
                "fp32",
            ],
            capture_output=True,
            text=True,
        )
        check(
            f"{name}: the folder is read", logits.returncode == 0 and not logits.stderr.count("warning"), logits.stderr
        )

    # What belongs to a model goes along; blocks at the edges, F16, zeros and more than one strip of rows.
    random.seed(1)
    base, model = load(os.path.join(GOLDEN, "v1-gqa")), at("odd")
    os.mkdir(model)
    name = "model.layers.0.mlp.down_proj.weight"
    rows, columns = base[name][1]
    values = [random.gauss(0, 10.0 ** random.randint(-6, 3)) for _ in range(rows * columns)]
    base[name] = ("F32", [rows, columns], struct.pack(f"<{rows * columns}f", *values))
    name = "model.layers.1.self_attn.o_proj.weight"
    base[name] = ("F32", base[name][1], bytes(4 * math.prod(base[name][1])))
    name = "model.layers.1.self_attn.q_proj.weight"
    base[name] = ("F16", base[name][1], b"".join(struct.pack("<e", x) for x in numbers(base[name])))
    save(os.path.join(model, "model.safetensors"), base)
    shutil.copy(os.path.join(GOLDEN, "v1-gqa", "config.json"), model)
    along = {
        "tokenizer.json": "{}",
        "tokenizer_config.json": "[1]",
        "generation_config.json": "{ }",
        "chat_template.jinja": "{{ messages }}",
        "LICENSE": "free",
    }
    for file, text in (along | {"README.md": "of the old one", "training.log": "1"}).items():
        open(os.path.join(model, file), "w").write(text)
    made = run(model, "--to", "fp8", "-o", at("new/deep/er/"), "-q")
    if check(
        "odd: quantize into a new folder of a new folder, quietly",
        made.returncode == 0 and not made.stderr,
        made.stderr,
    ):
        new = at("new/deep/er")
        check_fp8("odd", base, load(new))
        check(
            "odd: the tokenizer's files go along",
            sorted(os.listdir(new)) == sorted([*along, "config.json", "model.safetensors"])
            and all(open(os.path.join(new, f)).read() == t for f, t in along.items()),
            os.listdir(new),
        )
        check(
            "odd: a block of zeros has scale 1",
            set(numbers(load(new)["model.layers.1.self_attn.o_proj.weight_scale_inv"])) == {1.0},
        )
        os.mkdir(at("empty"))
        check(
            "into an empty folder",
            run(model, "--to", "fp8", "-o", at("empty")).returncode == 0 and len(os.listdir(at("empty"))) == 7,
        )
    check(
        "F32 to BF16",
        run(model, "--to", "bf16", "-o", at("plain")).returncode == 0
        and all(t[0] == "BF16" for t in load(at("plain")).values()),
    )
    check(
        "nothing is left beside the folders",
        not [f for f in os.listdir(tmp) + os.listdir(at("new/deep")) if f.endswith(".tmp")],
    )

    # What is refused
    old = os.path.join(GOLDEN, "v1-gqa")
    refused("FP8 again", 1, "the model is in FP8 already", at("empty"), "--to", "fp8", "-o", at("x"))
    refused("BF16 again", 1, "the model is in BF16 already", at("plain"), "--to", "bf16", "-o", at("x"))
    refused(
        "a folder that is not empty",
        1,
        "the folder is not empty, expected a new or an empty one",
        old,
        "--to",
        "fp8",
        "-o",
        at("plain"),
    )
    said = json.load(open(at("empty/config.json")))
    shutil.copytree(at("plain"), at("said"))
    json.dump(said, open(at("said/config.json"), "w"))
    check(
        "a config that speaks of FP8 where no tensor is: to FP8",
        run(at("said"), "--to", "fp8", "-o", at("said-fp8")).returncode == 0
        and load(at("said-fp8"))["model.layers.0.self_attn.q_proj.weight"][0] == "F8_E4M3",
    )
    check(
        "a config that speaks of FP8 where no tensor is: to BF16, it no longer does",
        run(at("said"), "--to", "bf16", "-o", at("said-bf16")).returncode == 0
        and load(at("said-bf16")) == load(at("plain"))
        and "quantization_config" not in json.load(open(at("said-bf16/config.json"))),
    )
    refused("the same folder", 1, "the folder is not empty", model, "--to", "fp8", "-o", model)
    refused(
        "a file",
        1,
        "a file, expected a new or an empty folder",
        old,
        "--to",
        "fp8",
        "-o",
        os.path.join(model, "LICENSE"),
    )
    refused("no such folder", 1, "no such folder", at("nothing"), "--to", "fp8", "-o", at("x"))
    refused("no --to", 2, "--to is missing", old, "-o", at("x"))
    refused("no --out", 2, "--out is missing", old, "--to", "fp8")
    refused("another type", 2, "--to", old, "--to", "fp4", "-o", at("x"))
    name, sick = "model.layers.1.mlp.up_proj.weight", at("sick")
    shutil.copytree(old, sick)
    for what, bits in (("NaN", 0x7FC00000), ("infinity", 0xFF800000)):
        data = bytearray(struct.pack(f"<{math.prod(load(old)[name][1])}f", *numbers(load(old)[name])))
        struct.pack_into("<I", data, 4 * (3 * load(old)[name][1][1] + 5), bits)
        save(os.path.join(sick, "model.safetensors"), load(old) | {name: ("F32", load(old)[name][1], bytes(data))})
        refused(
            f"a weight of {what}",
            1,
            f"tensor {name}: [3, 5]: found NaN or an infinity",
            sick,
            "--to",
            "fp8",
            "-o",
            at("x"),
        )
    fp8 = load(at("empty"))
    codes = bytearray(fp8[name][2])
    codes[2 * fp8[name][1][1] + 1] = 0xFF
    for what, words, changes in (
        ("the code of NaN", f"tensor {name}: [2, 1]: found the code of NaN", {name: (*fp8[name][:2], bytes(codes))}),
        ("a missing scale", f"but no tensor {name}_scale_inv", {name + "_scale_inv": None}),
        (
            "a scale of 0",
            f"tensor {name}_scale_inv: [0, 0]: found 0",
            {name + "_scale_inv": ("F32", fp8[name + "_scale_inv"][1], bytes(len(fp8[name + "_scale_inv"][2])))},
        ),
    ):
        shutil.rmtree(sick)
        shutil.copytree(at("empty"), sick)
        save(os.path.join(sick, "model.safetensors"), {n: t for n, t in (fp8 | changes).items() if t})
        refused(what, 1, words, sick, "--to", "bf16", "-o", at("x"))
    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
    refused("a full disk", 1, "write", old, "--to", "fp8", "-o", at("x"), preexec_fn=small_files)
    check(
        "none of them left anything",
        not os.path.exists(at("x")) and not [f for f in os.listdir(tmp) if f.endswith(".tmp")],
        os.listdir(tmp),
    )

    # Stopped while it works: a model that takes a while, of zeros that cost no disk.
    big = at("big")
    os.mkdir(big)
    layer = {"q_proj": [4096, 4096], "k_proj": [4096, 4096], "v_proj": [4096, 4096], "o_proj": [4096, 4096]}
    entries, end = {}, 0
    for i in range(8):
        for key, shape in layer.items():
            entries[f"model.layers.{i}.self_attn.{key}.weight"] = {
                "dtype": "BF16",
                "shape": shape,
                "data_offsets": [end, end + 2 * shape[0] * shape[1]],
            }
            end += 2 * shape[0] * shape[1]
    text = json.dumps(entries).encode()
    with open(os.path.join(big, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        f.truncate(8 + len(text) + end)
    shutil.copy(os.path.join(GOLDEN, "v1-gqa", "config.json"), big)
    for what, number, code in (("interrupted", signal.SIGINT, 1), ("killed", signal.SIGKILL, -signal.SIGKILL)):
        for attempt in range(20):   # on a busy machine it may be done before the signal comes
            shutil.rmtree(at("cut"), ignore_errors=True)
            p = subprocess.Popen([PROGRAM, "quantize", big, "--to", "fp8", "-o", at("cut")],
                                 stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            working = []
            while not working and p.poll() is None:
                working = [f for f in os.listdir(tmp) if f.startswith("cut.") and f.endswith(".tmp")]
            p.send_signal(number)
            p.communicate()
            if p.returncode != 0:
                break
        check(
            f"{what}: no folder",
            working and p.returncode == code and not os.path.exists(at("cut")),
            f"exit {p.returncode}, {working}",
        )
        left = [f for f in os.listdir(tmp) if f.startswith("cut.")]
        check(f"{what}: what is left", bool(left) == (number == signal.SIGKILL), left)
print(f"{passed} passed, {failed} failed")
sys.exit(failed > 0)
