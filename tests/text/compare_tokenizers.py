#!/usr/bin/env python3
"""Compares encoding and decoding with the Python package `tokenizers`, for every tokenizer under tests/text/data.

    tests/text/compare_tokenizers.py [SECONDS] [SEED] [FILE...]

Each FILE (and all stored texts joined) as a whole, twice over and in parallel; then for SECONDS (default: 10) random
bytes, random characters and random mixtures with added
tokens, ids that no encoder emits, and cuts at random places. Needs the package, a C compiler ($CC) and
$BUILD/libdeepseek.a; without the package it says so and passes.
"""
import ctypes
import json
import os
import random
import subprocess
import sys
import time

os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
BUILD = os.environ.get("BUILD", "build")
DATA = "tests/text/data"
FILES = [
    "deepseek.tokenizer.json",
    "small-v1/tokenizer.json",
    "small-v3/tokenizer.json",
    "small-gpt2/tokenizer.json",
    "small-ignore-merges/tokenizer.json",
]
CORNERS = (
    " \t\n\r\v\f\x00\x01\x1c\x7f\x85\xa0\u1680\u2003\u2028\u202f\u3000\u200b\u200d\ufeffasdtlmrveZ'\"!$+-_<|>(/\\[`~09\xb2\xbd\u0661\u2160\u3007\uff11\U00011de5\U00016ff5"
    "\xb5\xe9\xfc\xf8\u0131\u0301\u0903\u0410\u05d0\u0e01\u0120\u010a\u1e00\u2126\ufb00\uff21\U00010400\u2018\u3001\u3002\uff01\uff5c\u2581\u3040\u30fb\u30ff\u4e00\u9fa5\u9fa6\uac00"
    "\ue000\U00020000\u20ac\U0001f44d\U0001f3fd\ufe0f\u0378\U0010ffff"
)


def build():
    out = os.path.join(BUILD, "tests", "text", "tokenizer_door.so")
    os.makedirs(os.path.dirname(out), exist_ok=True)
    subprocess.run(
        [
            os.environ.get("CC", "cc"),
            "-std=c17",
            "-D_GNU_SOURCE",
            "-Isrc",
            "-O2",
            "-fPIC",
            "-shared",
            "tests/text/tokenizer_door.c",
            os.path.join(BUILD, "libdeepseek.a"),
            "-ljansson",
            "-lxxhash",
            "-lm",
            "-pthread",
            "-o",
            out,
        ],
        check=True,
    )
    door = ctypes.CDLL(os.path.abspath(out))
    door.door_load.restype = ctypes.c_void_p
    door.door_encode.restype = door.door_encode_parallel.restype = door.door_decode.restype = ctypes.c_long
    door.door_cut.restype = ctypes.c_size_t
    return door


class Ours:
    def __init__(self, door, path):
        message = ctypes.create_string_buffer(1024)
        self.door, self.handle = door, door.door_load(path.encode(), message, ctypes.c_size_t(1024))
        if not self.handle:
            raise SystemExit(message.value.decode())

    def encode(self, data, special=True, how=None):
        ids = (ctypes.c_int32 * (3 * len(data) + 16))()
        count = (how or self.door.door_encode)(
            ctypes.c_void_p(self.handle), data, ctypes.c_size_t(len(data)), int(special), ids
        )
        return ids[:count] if count >= 0 else None

    def encode_parallel(self, data, special=True):
        return self.encode(data, special, self.door.door_encode_parallel)

    def cut(self, data, special, limit):
        return self.door.door_cut(
            ctypes.c_void_p(self.handle), data, ctypes.c_size_t(len(data)), int(special), ctypes.c_size_t(limit)
        )

    def decode(self, ids, skip, longest):
        text = ctypes.create_string_buffer(3 * longest * len(ids) + 16)
        length = self.door.door_decode(
            ctypes.c_void_p(self.handle), (ctypes.c_int32 * len(ids))(*ids), ctypes.c_long(len(ids)), int(skip), text
        )
        return text.raw[:length].decode()


class Pair:
    """One tokenizer here and there, with and without its added tokens."""

    def __init__(self, door, path, reference):
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
        self.name = path[len(DATA) + 1:]
        self.added = [token["content"] for token in document["added_tokens"]]
        self.ours, self.theirs = Ours(door, path), reference.from_file(path)
        document["added_tokens"] = []
        self.plain = reference.from_str(json.dumps(document))
        self.size = self.theirs.get_vocab_size(with_added_tokens=True)
        self.longest = max(len(token.encode()) for token in self.theirs.get_vocab())


class Comparison:
    def __init__(self):
        self.count = self.differences = self.panics = 0

    def same(self, what, pair, text, expected, found):
        self.count += 1
        if expected == found:
            return
        self.differences += 1
        if self.differences <= 20:
            print(
                f"{pair.name}: {what}: {ascii(text)[:2000]}\n    expected {expected if isinstance(expected, str) else expected[:200]}\n    found    {found if isinstance(found, str) else found and found[:200]}"
            )

    def encode(self, pair, data, special):
        """data: bytes; what is not UTF-8 in it becomes U+FFFD there and here."""
        text = data.decode("utf-8", "replace")
        try:
            expected = (pair.theirs if special else pair.plain).encode(text, add_special_tokens=False).ids
        except BaseException as error:   # the library itself may break on tokens that take blanks
            if isinstance(error, KeyboardInterrupt):
                raise
            self.panics += 1
            return None
        found = pair.ours.encode(data, special)
        self.same("special" if special else "plain", pair, data, expected, found)
        return found

    def decode(self, pair, ids):
        for skip in (False, True):
            self.same(
                f"decode, skip {skip}",
                pair,
                ids,
                pair.theirs.decode(ids, skip_special_tokens=skip),
                pair.ours.decode(ids, skip, pair.longest),
            )

    def cuts(self, pair, data, special, rng):
        whole = pair.ours.encode(data, special)
        cut = pair.ours.cut(data, special, rng.randrange(len(data) + 2))
        self.same(
            f"cut at {cut}",
            pair,
            data,
            whole,
            pair.ours.encode(data[:cut], special) + pair.ours.encode(data[cut:], special),
        )

    def whole(self, pair, data):
        for special in (True, False):
            ids = self.encode(pair, data, special)
            self.same("in parallel", pair, b"(long)", ids, pair.ours.encode_parallel(data, special))
        self.encode(pair, data + data, True)
        self.decode(pair, ids)


def random_data(rng, pair, texts, scalars):
    kind, length = rng.randrange(10), rng.choice([2, 5, 15, 40, 150, 600])
    if kind == 0:
        return rng.randbytes(length)
    if kind == 1:
        return "".join(chr(rng.choice(scalars)) for _ in range(length)).encode()
    if kind == 2:
        return "".join(rng.choices(CORNERS, k=length)).encode()
    if kind == 3:
        return bytes(rng.randrange(0x20, 0x7F) if rng.random() < 0.9 else rng.randrange(128) for _ in range(length))
    if kind == 4:
        return "".join(rng.choice(CORNERS) * rng.choice([1, 1, 2, 3, 17]) for _ in range(length)).encode()
    if kind == 5:   # well-formed text with a few bytes changed
        data = bytearray(rng.choice(texts).encode()[:length])
        for _ in range(rng.randrange(4)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        return bytes(data)
    if kind == 6:
        base = rng.randrange(0x20, 0x3200)
        return "".join(
            rng.choice(" .,\n1") if rng.random() < 0.2 else chr(base + rng.randrange(64)) for _ in range(length)
        ).encode()
    parts = []   # slices of the stored texts, added tokens whole and in parts, blanks
    for _ in range(rng.randrange(1, 12)):
        if pair.added and rng.random() < 0.5:
            token = rng.choice(pair.added)
            parts.append(token if rng.random() < 0.7 else token[:rng.randrange(len(token) + 1)])
        elif rng.random() < 0.4:
            parts.append("".join(rng.choices(" \n\t\u3000ax1.<\xe9", k=rng.randrange(1, 4))))
        else:
            text = rng.choice(texts)
            at = rng.randrange(len(text) + 1)
            parts.append(text[at:at + length])
    return "".join(parts).encode()


def main():
    try:
        import tokenizers
    except ImportError:
        print("skipped: there is no Python package tokenizers here\n1 passed, 0 failed")
        return 0
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10
    rng = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    door = build()
    pairs = [Pair(door, os.path.join(DATA, name), tokenizers.Tokenizer) for name in FILES]
    with open(os.path.join(DATA, "texts.jsonl"), encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    comparison, started = Comparison(), time.monotonic()
    wholes = ["".join(texts).encode()] if seconds >= 10 else []   # seconds of the library's time
    for path in sys.argv[3:]:
        with open(path, "rb") as file:
            wholes.append(file.read())
    for data in wholes:
        for pair in pairs:
            comparison.whole(pair, data)
    swept = comparison.count
    print(
        f"{len(wholes)} texts of {', '.join(str(len(data)) for data in wholes)} bytes as a whole: {swept} comparisons, {comparison.differences} differences, {time.monotonic() - started:.0f} s",
        flush=True,
    )
    scalars = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    scalars += 3 * [c for c in scalars if c < 0x3400 or 0x1D000 <= c < 0x20000]
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        pair = rng.choice(pairs)
        data, special = random_data(rng, pair, texts, scalars), rng.random() < 0.8
        comparison.encode(pair, data, special)
        comparison.cuts(pair, data, special, rng)
        if rng.random() < 0.05:
            long = b"".join(random_data(rng, pair, texts, scalars) for _ in range(60))
            for _ in range(5):
                comparison.cuts(pair, long, special, rng)
        comparison.decode(pair, [rng.randrange(pair.size + 20) for _ in range(rng.randrange(12))])
    print(
        f"{comparison.count - swept} comparisons of random texts and ids, tokenizers {tokenizers.__version__} ({comparison.panics} texts broke the library): {comparison.differences} differences"
    )
    print(f"{int(comparison.differences == 0)} passed, {int(comparison.differences != 0)} failed")
    return comparison.differences != 0


if __name__ == "__main__":
    sys.exit(main())
