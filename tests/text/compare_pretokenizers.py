#!/usr/bin/env python3
"""Compares the scanners of text/pretokenize.c with the pre-tokenizers of the Python package `tokenizers`, text by text.

    tests/text/compare_pretokenizers.py [SECONDS] [SEED]

Every character in several contexts, then random texts for SECONDS (default: 5; 180 with TEST_LONG=1). Needs the package
and a C compiler ($CC); says so and passes
where one is missing.
"""
import ctypes
import os
import random
import subprocess
import sys
import time

os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
BUILD = os.environ.get("BUILD", "build")
GPT2, V1, CODER, V3 = 1, 2, 3, 4   # enum pipeline
NAMES = {GPT2: "gpt2", V1: "v1", CODER: "coder", V3: "v3"}


def build():
    out = os.path.join(BUILD, "tests", "text", "pieces_door.so")
    os.makedirs(os.path.dirname(out), exist_ok=True)
    sources = ["tests/text/pieces_door.c", "src/text/pretokenize.c", "src/text/unicode.c", "src/base/error.c"]
    subprocess.run(
        [
            os.environ.get("CC", "cc"),
            "-std=c17",
            "-D_GNU_SOURCE",
            "-Isrc",
            "-O2",
            "-fPIC",
            "-shared",
            *sources,
            "-ljansson",
            "-o",
            out,
        ],
        check=True,
    )
    door = ctypes.CDLL(os.path.abspath(out))
    door.pieces_ends.restype = door.safe_cut.restype = ctypes.c_size_t
    return door


def references():
    from tokenizers import Regex, pre_tokenizers as pre

    def split(pattern):
        return pre.Split(Regex(pattern), behavior="isolated", invert=False)

    letters = "".join("-".join(chr(int(end, 16)) for end in part.split("-")) for part in V1_LETTERS.split())
    cjk = split("[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+")
    digits = pre.Digits(individual_digits=True)
    level = pre.ByteLevel(add_prefix_space=False, use_regex=False)
    return {
        GPT2: pre.ByteLevel(add_prefix_space=False, use_regex=True),
        V1: pre.Sequence(
            [
                split("[\r\n]"),
                split(f"\\s?[{letters}]+"),
                split("\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"),
                split("\\s+$"),
                cjk,
                digits,
                level,
            ]
        ),
        CODER: pre.Sequence([split("[\r\n]"), split("\\s?\\p{L}+"), split("\\s?\\p{P}+"), cjk, digits, level]),
        V3: pre.Sequence(
            [
                split("\\p{N}{1,3}"),
                split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"),
                split(
                    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*"
                    "|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
                ),
                level,
            ]
        ),
    }


# spec/formats.md section 2.4
V1_LETTERS = """
0041-005A 0061-007A 00B5 00C0-00D6 00D8-00F6 00F8-01BA 01BC-01BF 01C4-0293 0295-02AF 0370-0373 0376 0377 037B-037D 037F
0386
0388-038A 038C 038E-03A1 03A3-03F5 03F7-0481 048A-052F 0531-0556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF
1D00-1D2B
1D6B-1D77 1D79-1D9A 1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE
1FC2-1FC4 1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124 2126 2128
212A-212D 212F-2134 2139 213C-213F 2145-2149 214E 2183 2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2 2CF3 A640-A66D A680-A69B
A722-A76F A771-A787 A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F 104B0-104D3 104D8-104FB
10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943"""

# One character of every class that some pattern tells apart, and more of those on which patterns turn.
CORNERS = (
    " \t\n\r\v\f\x00\x01\x1c\x1f\x7f\x85\xa0\u1680\u2000\u2003\u200a\u2028\u2029\u202f\u205f\u3000\u200b\u200d\ufeff"
    "aZsStTrRvVmMdDlLeE'\"!$+-_(/:[`~"
    "09\xb2\xbd\u0661\u2160\u3007\u3021\u2460\uff11\U0001d7d8\U00011de5\U00016ff5"
    "\xb5\xe9\xdf\u0131\u0301\u0903\u20dd\u0410\u05d0\u0e01\u0e31\u10a0\u10d0\u13a0"
    "\u1d00\u1e00\u2102\u2126\u2c00\ua640\uab70\ufb00\uff21\uff41\U00010400\U0001e900"
    "\u2018\u2019\u201f\u2020\u3001\u3002\u3003\uff01\uff0f\uff1a\uff5e\uff5f\u30fb\u30fc"
    "\u3040\u3041\u3099\u309b\u309f\u30a0\u30a1\u30ff\u4e00\u4e01\u9fa5\u9fa6\uac00\ud7a3\ud7ff\ue000\uf8ff\U00020000\u07ff\u0800\u33ff"
    "\u20ac\u2200\U0001f44d\U0001f3fd\ufe0f\u0378\U000e0001\U0010ffff"
)
CONTEXTS = [
    "{}",
    "{0}{0}",
    "a{}b",
    " {}",
    "{} ",
    " {} ",
    "{} x",
    "  {}",
    "{}  x",
    "\n{}",
    "{}\n",
    "1{}2",
    "!{}!",
    "{}a",
    "'{}",
    "\u4e2d{}\u6587",
    "\u30fb{}",
    "\u3000{}",
    "{}\u0301",
    "\x00{}\x00",
    ".{}s",
    " {} \n {}",
    "\u3000{}\u3000a",
    "\xe9{}\xe9",
    "{}\u3000{}",
]


class Comparison:
    def __init__(self, door, pre):
        self.door, self.pre = door, pre
        self.buffer = (ctypes.c_uint32 * (1 << 20))()
        self.texts = self.differences = 0

    def ours(self, pipeline, data):
        count = self.door.pieces_ends(pipeline, data, ctypes.c_size_t(len(data)), self.buffer)
        return self.buffer[:count]

    def check(self, text):
        data = text.encode()
        starts, at = [], 0   # byte offset of every character, and of the end
        for character in text:
            starts.append(at)
            at += len(character.encode())
        starts.append(at)
        for pipeline, pre in self.pre.items():
            expected = [starts[end] for _, (_, end) in pre.pre_tokenize_str(text)] if text else []
            found = self.ours(pipeline, data)
            self.texts += 1
            if expected != found:
                self.differences += 1
                if self.differences <= 20:
                    print(
                        f"{NAMES[pipeline]}: {ascii(text)}\n    expected {pieces(data, expected)}\n    found    {pieces(data, found)}"
                    )

    def check_cuts(self, text, rng):
        data = text.encode()
        for pipeline in self.pre:
            limit = rng.randrange(len(data) + 2)
            cut = self.door.safe_cut(pipeline, data, ctypes.c_size_t(len(data)), ctypes.c_size_t(limit))
            whole, left = self.ours(pipeline, data), self.ours(pipeline, data[:cut])
            if cut > limit or left + [cut + end for end in self.ours(pipeline, data[cut:])] != whole:
                self.differences += 1
                print(f"{NAMES[pipeline]}: wrong cut at {cut} of {ascii(text)}")


def pieces(data, ends):
    return [ascii(data[begin:end].decode(errors="replace")) for begin, end in zip([0] + ends, ends)]


def random_text(rng, assigned):
    kind, length = rng.randrange(8), rng.choice([3, 8, 20, 60, 200])
    if kind == 0:
        return "".join(rng.choices(CORNERS, k=length))
    if kind == 1:
        return "".join(chr(rng.randrange(128)) for _ in range(length))
    if kind == 2:
        return "".join(rng.choices(assigned, k=length))
    if kind == 3:
        few = rng.sample(CORNERS, 4)
        return "".join(rng.choices(few, k=length))
    if kind == 4:
        return "".join(rng.choice(CORNERS) * rng.choice([1, 1, 1, 2, 3, 5]) for _ in range(length))
    if kind == 5:
        return "".join(rng.choices(" \t\n\r\u3000\u2003ab1!\u4e2d\xe9\x01", k=length))
    if kind == 6:
        base = rng.randrange(0x20, 0x3200)
        return "".join(
            rng.choice(" .,\n1") if rng.random() < 0.2 else chr(base + rng.randrange(64)) for _ in range(length)
        )
    words = [
        "the",
        "I'm",
        "we've",
        "'s",
        "foo_bar",
        "(x)",
        "3.14",
        "12345",
        "\t",
        "\n\n",
        "  ",
        "na\xefve",
        "\u4e16\u754c",
        "\u30c6\u30b9\u30c8",
        "\u043c\u0438\u0440",
        "...",
        "\u2019s",
        "\u3000",
    ]
    return "".join(rng.choice(words) + rng.choice(["", " ", " "]) for _ in range(length // 2 + 1))


def main():
    try:
        import tokenizers
    except ImportError:
        print("skipped: there is no Python package tokenizers here\n0 passed, 0 failed")
        return 0
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 180 if os.environ.get("TEST_LONG") else 5
    rng = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    comparison = Comparison(build(), references())
    started = time.monotonic()
    scalars = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    assigned = [
        c
        for c in scalars
        if ord(c) < 0x3400 or 0xA000 <= ord(c) < 0xAC00 or 0xF900 <= ord(c) < 0x12000 or 0x1D000 <= ord(c) < 0x20000
    ]
    for text in ["", "'ll", "'l", "'", " 's", "'S", "a'rest", "\u30fb\n"]:
        comparison.check(text)
    for context in CONTEXTS:
        for character in CORNERS:
            comparison.check(
                context.format(character, character) if context.count("{}") > 1 else context.format(character)
            )
    # Every character, many in a text and each on a line of its own; those of the long runs of letters and of nothing in
    # a few contexts only.
    long = os.environ.get("TEST_LONG") or seconds >= 60
    for number, context in enumerate(CONTEXTS):
        every = (scalars if number < 4 else assigned) if long else rng.sample(scalars, 2000)
        for at in range(0, len(every), 500):
            comparison.check(
                "\n".join(
                    context.format(c, c) if context.count("{}") > 1 else context.format(c) for c in every[at : at + 500]
                )
            )
    swept, started = comparison.texts, time.monotonic()
    while time.monotonic() - started < seconds:
        text = random_text(rng, assigned)
        comparison.check(text)
        comparison.check_cuts(text, rng)
    print(
        f"{swept} comparisons of characters in their contexts, {comparison.texts - swept} of random texts, tokenizers {tokenizers.__version__}: {comparison.differences} differences"
    )
    print(f"{int(comparison.differences == 0)} passed, {int(comparison.differences != 0)} failed")
    return comparison.differences != 0


if __name__ == "__main__":
    sys.exit(main())
