#!/usr/bin/env python3
"""eval against an independent computation: the ids made here from the documents, the logits through the door `logits`,
the losses, bytes and positions added up here."""

import json, math, os, shutil, struct, subprocess, sys, tempfile

PROGRAM, HERE = os.environ.get("DEEPSEEK", "./deepseek"), os.path.dirname(os.path.abspath(__file__))
GOLDEN = os.path.join(HERE, "..", "golden", "v1-gqa")
passed = failed = 0


def check(what, ok, figure=""):
    global passed, failed
    passed, failed = passed + bool(ok), failed + (not ok)
    if not ok:
        print(f"FAIL  {what} {figure}")


def run(*arguments):
    made = subprocess.run([PROGRAM, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if made.returncode:
        print(made.stderr)
    return made


def logits_of(path):
    with open(path, "rb") as f:
        n = int.from_bytes(f.read(8), "little")
        entry, data = json.loads(f.read(n))["logits"], f.read()
    begin, end = entry["data_offsets"]
    (rows, length, vocab), values = entry["shape"], struct.unpack(f"<{(end - begin) // 4}f", data[begin:end])
    return [[values[(r * length + t) * vocab:(r * length + t + 1) * vocab] for t in range(length)] for r in range(rows)]


def loss_of(logits, target):
    top = max(logits)
    return top + math.log(math.fsum(math.exp(x - top) for x in logits)) - logits[target]


def windows_of(ids, context, stride):
    """(first input, number of inputs, first that counts): overlapping windows, every target once"""
    targets, begin, counted = len(ids) - 1, 0, 0
    while counted < targets:
        length = min(context, targets - begin)
        yield begin, length, counted - begin
        counted = begin + length
        begin += stride


def expected(folder, ids, context, stride, at):
    windows = list(windows_of(ids, context, stride))
    json.dump([ids[b:b + n] for b, n, _ in windows], open(at("tokens.json"), "w"))
    run("logits", folder, "--tokens", at("tokens.json"), "--compute", "fp32", "-o", at("logits.safetensors"))
    logits = logits_of(at("logits.safetensors"))
    by_position = [[] for _ in range(context)]
    for row, (begin, length, first) in zip(logits, windows):
        for t in range(first, length):
            by_position[t].append(loss_of(row[t], ids[begin + t + 1]))
    return by_position


with tempfile.TemporaryDirectory() as tmp:
    at = lambda name: os.path.join(tmp, name)
    os.environ["XDG_CACHE_HOME"] = at("cache")
    tokenizer = json.load(open(os.path.join(HERE, "data", "characters", "tokenizer.json")))
    vocab = tokenizer["model"]["vocab"]
    eos = tokenizer["added_tokens"][0]["id"]
    bos = eos + 1
    names = {i: c for c, i in vocab.items()}
    letters = [c for c in sorted(vocab) if c.isalpha() or c == " "]
    random = 1
    documents = []
    for length in (150, 1, 40, 77):
        text = ""
        for _ in range(length):
            random = (random * 1103515245 + 12345) % 2**31
            text += letters[(random >> 16) % len(letters)]
        documents.append("x" + text)
    os.mkdir(at("folder"))
    for i, text in enumerate(documents):
        open(at(f"folder/{i}.txt"), "w").write(text)
    with open(at("data.jsonl"), "w") as f:
        for text in documents:
            f.write(json.dumps({"id": 1, "body": text}) + "\n")
    open(at("plain.txt"), "w").write(documents[0])

    for with_bos in (False, True):
        folder = at(f"model-{with_bos}")
        os.mkdir(folder)
        for name in ("config.json", "model.safetensors"):
            shutil.copy(os.path.join(GOLDEN, name), folder)
        if with_bos:
            tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": bos, "content": "<bos>"})
        json.dump(tokenizer, open(os.path.join(folder, "tokenizer.json"), "w"))
        json.dump(
            {"eos_token": "<|endoftext|>", **({"bos_token": "<bos>", "add_bos_token": True} if with_bos else {})},
            open(os.path.join(folder, "tokenizer_config.json"), "w"),
        )

        def ids_of(texts):
            ids = []
            for i, text in enumerate(texts):
                ids += ([eos] if i else []) + ([bos] if with_bos else []) + [vocab[c] for c in text]
            return ids

        cases = [
            (("--data", at("plain.txt")), [documents[0]], 32, 32, 0),
            (("--data", at("plain.txt")), [documents[0]], 4096, 4096, 0),
            (("--data", at("folder")), documents, 50, 20, 0),
            (("--data", at("data.jsonl"), "--text-key", "body"), documents, 33, 1 if with_bos else 33, 0),
            (("--data", at("folder"), "--held-out", "0.25"), documents, 16, 5, 0.25),
        ]
        for options, texts, context, stride, held_out in cases:
            name = (
                f"{' '.join(os.path.basename(o) for o in options)}, context {context}, stride {stride}, bos {with_bos}"
            )
            ids = ids_of(texts)
            ids = ids[len(ids) - int(len(ids) * held_out):] if held_out else ids
            context = min(context, len(ids) - 1)
            made = run(
                "eval",
                folder,
                *options,
                "--context",
                str(context),
                "--stride",
                str(min(stride, context)),
                "--compute",
                "fp32",
                "--json",
                "--quiet",
            )
            check(f"{name}: runs", made.returncode == 0, made.stderr)
            found = json.loads(made.stdout)
            by_position = expected(folder, ids, context, min(stride, context), at)
            losses = [x for losses in by_position for x in losses]
            loss = math.fsum(losses) / len(losses)
            size = sum(len(names[i].encode()) for i in ids[1:] if i in names)
            check(f"{name}: tokens", found["tokens"] == len(ids) - 1 == len(losses), found["tokens"])
            check(f"{name}: bytes", found["bytes"] == size, (found["bytes"], size))
            check(f"{name}: documents", found["documents"] == len(texts), found["documents"])
            check(
                f"{name}: window",
                (found["context"], found["stride"]) == (context, min(stride, context)),
                found["context"],
            )
            # Logits within 1e-5 of their norm, of which each may be off; measured: below 1e-6.
            check(f"{name}: loss", abs(found["loss"] - loss) < 1e-5 * loss, (found["loss"], loss))
            check(f"{name}: perplexity", abs(found["perplexity"] / math.exp(loss) - 1) < 1e-4)
            check(f"{name}: bits per token", abs(found["bits_per_token"] - loss / math.log(2)) < 2e-5 * loss)
            check(
                f"{name}: bits per byte",
                abs(found["bits_per_byte"] - math.fsum(losses) / math.log(2) / size) < 2e-5 * loss,
            )
            check(f"{name}: counts by position", found["tokens_by_position"] == [len(x) for x in by_position])
            means = [math.fsum(x) / len(x) if x else None for x in by_position]
            close = len(means) == len(found["loss_by_position"]) and all(
                (a is None) == (b is None) and (a is None or abs(a - b) < 1e-4)
                for a, b in zip(means, found["loss_by_position"])
            )
            check(f"{name}: loss by position", close)
print(f"{passed} passed, {failed} failed")
sys.exit(failed > 0)
