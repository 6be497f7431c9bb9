#!/usr/bin/env python3
"""The doors `tokenize encode --jsonl` and `tokenize decode --jsonl` on every stored text and sequence of ids: those of
the tokenizers library. And large texts, cut anywhere on their way in."""

import json
import os
import random
import subprocess
import sys

program, data = os.environ.get("DEEPSEEK", "./deepseek"), os.path.join(
    os.path.dirname(os.path.abspath(__file__)), "..", "text", "data"
)
passed = failed = 0


def check(name, condition, told=""):
    global passed, failed
    passed, failed = passed + bool(condition), failed + (not condition)
    if not condition:
        print(f"FAIL  {name}\n      {told}"[:600])


def run(name, arguments, given):
    """Standard output of a run that must succeed."""
    done = subprocess.run([program, "tokenize"] + arguments, input=given, capture_output=True, timeout=120)
    check(f"{name}: exit code", done.returncode == 0, done.stderr)
    return done.stdout


def lines(name, arguments, values):
    """One value per line in, one per line out."""
    out = run(name, arguments + ["--jsonl", "-"], "".join(json.dumps(value) + "\n" for value in values).encode())
    found = [json.loads(line) for line in out.decode().split("\n")[:-1]]
    check(f"{name}: one line for each", len(found) == len(values), (len(found), len(values)))
    return found


def same(name, found, expected):
    wrong = [i for i, (a, b) in enumerate(zip(found, expected)) if a != b]
    check(f"{name}: {len(expected)} equal", not wrong, [(i, found[i], expected[i]) for i in wrong[:2]])


with open(os.path.join(data, "texts.jsonl"), encoding="ascii") as file:
    texts = [json.loads(line) for line in file]

for folder in ["", "small-v1", "small-v3", "small-gpt2", "small-ignore-merges"]:
    path = os.path.join(data, folder)
    tokenizer = os.path.join(path, "tokenizer.json" if folder else "deepseek.tokenizer.json")
    name = folder or "deepseek"
    with open(os.path.join(path, "encodings.json"), encoding="utf-8") as file:
        stored = json.load(file)
    entries = stored["encode"]
    given = [texts[entry["id"]] for entry in entries]
    same(
        f"{name} encode",
        lines(f"{name} encode", ["encode", tokenizer, "--threads", "2"], given),
        [entry["ids"] for entry in entries],
    )
    plain = [entry for entry in entries if entry["id"] < 700]
    same(
        f"{name} encode --plain",
        lines(f"{name} encode --plain", ["encode", tokenizer, "--plain"], [texts[entry["id"]] for entry in plain]),
        [entry.get("plain", entry["ids"]) for entry in plain],
    )
    sequences = entries + stored.get("decode", [])
    out = [entry.get("out", texts[entry["id"]]["text"] if "id" in entry else None) for entry in sequences]
    same(
        f"{name} decode",
        lines(f"{name} decode", ["decode", tokenizer, "-q"], [entry["ids"] for entry in sequences]),
        out,
    )
    same(
        f"{name} decode --skip-special",
        lines(
            f"{name} decode --skip-special",
            ["decode", tokenizer, "-q", "--skip-special"],
            [entry["ids"] for entry in sequences],
        ),
        [entry.get("skip", whole) for entry, whole in zip(sequences, out)],
    )

# A text that is read and encoded in several parts, with markers and long runs at every place, gives the ids of the
# whole, which is what one line of --jsonl is.
random.seed(4)
tokenizer = os.path.join(data, "small-v3", "tokenizer.json")
parts = [text["text"] for text in texts] + [" " * 70000, "\n" * 70000, "x" * 30000]
with open(os.path.join(data, "..", "..", "..", "data", "tinyshakespeare.txt"), encoding="utf-8", newline="") as file:
    large = file.read() * 15   # up to a little before the end of the first part
large = large[:(16 << 20) - 300000] + "".join(random.choice(parts) for _ in range(1500))
size = len(large.encode())
expected = lines("a large text in one line", ["encode", tokenizer, "--threads", "1"], [large])[0]
found = json.loads(run("a large text", ["encode", tokenizer, "--threads", "3"], large.encode()))
check("a large text has several parts", size > (16 << 20) + 200000, size)
check(
    f"a large text of {size} bytes: {len(expected)} ids",
    found == expected,
    next(((i, a, b) for i, (a, b) in enumerate(zip(found, expected)) if a != b), (len(found), len(expected))),
)
back = run("a large text comes back", ["decode", tokenizer], json.dumps(expected).encode())
check("a large text comes back: the same", back == large.encode())

print(f"{passed} passed, {failed} failed")
sys.exit(failed > 0)
