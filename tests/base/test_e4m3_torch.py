#!/usr/bin/env python3
"""tests/base/data/e4m3.txt, which test_number.c compares base/number.c with, is what PyTorch's float8_e4m3fn says.
`--write` makes it anew.

A line is `e BITS CODE`, a float and what it is cast to, or `d CODE BITS`, a code and its float, in hexadecimal. PyTorch
does not saturate: magnitudes above 464 become NaN there, and have no line.

The comparison belongs to the long tests and runs where PyTorch is installed."""
import os
import struct
import sys

PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data", "e4m3.txt")


def bits(x):
    return struct.unpack("<I", struct.pack("<f", x))[0]


def number(u):
    return struct.unpack("<f", struct.pack("<I", u))[0]


def lines(torch):
    def cast(patterns):
        x = torch.tensor([u - (1 << 32) if u >> 31 else u for u in patterns], dtype=torch.int32).view(torch.float32)
        return x.to(torch.float8_e4m3fn).view(torch.uint8).tolist()

    values = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).to(torch.float32).tolist()
    for code, value in enumerate(values):
        if value == value:   # a NaN's bits are nobody's business
            yield f"d {code:02x} {bits(value):08x}"
    patterns = [0x7FC00000, 0xFFC00000, bits(464.0), bits(463.99997)]
    for low, high in zip(values[:126], values[1:127]):   # every code, every tie, and their neighbours
        for at in (bits(low), bits((low + high) / 2)):
            patterns += [u for u in (at - 1, at, at + 1) if u >= 0]
    state = 1
    for _ in range(300):   # anything: subnormal floats, all exponents up to 2^8
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        patterns.append((state >> 33) % bits(464.0))
    patterns += [u | 1 << 31 for u in patterns if not u >> 31]
    for u, code in zip(patterns, cast(patterns)):
        yield f"e {u:08x} {code:02x}"


def value(code):
    exponent, mantissa = code >> 3 & 15, code & 7
    magnitude = (8 + mantissa) * 2.0 ** (exponent - 10) if exponent else mantissa * 2.0**-9
    return -magnitude if code & 128 else magnitude


def check(what, good):
    if not good:
        print(f"FAILED: {PATH}: {what}")
    return good


def main():
    torch = None
    if os.environ.get("TEST_LONG") or sys.argv[1:]:
        try:
            import torch
        except ImportError:
            print("PyTorch is not installed")
    if torch:
        text = "\n".join(lines(torch)) + "\n"
    if sys.argv[1:] == ["--write"]:
        with open(PATH, "w") as file:
            file.write(text)
        return 0
    with open(PATH) as file:
        found = file.read()
    codes = [line.split() for line in found.splitlines() if line.startswith("d ")]
    results = [
        check(
            "the values of the codes",
            len(codes) == 254 and all(number(int(u, 16)) == value(int(code, 16)) for _, code, u in codes),
        )
    ]
    if torch:
        results.append(check("not what this PyTorch says", found == text))
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    return 0 if all(results) else 1


sys.exit(main())
