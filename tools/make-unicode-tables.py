#!/usr/bin/env python3
"""Writes src/text/unicode_tables.c: the character classes of text/unicode.h in two levels, blocks of 128 characters and
the distinct rows among them.

    tools/make-unicode-tables.py tests/text/data/unicode-classes.json > src/text/unicode_tables.c

The input lists, for each class, the code points that the reference tokenizer counts to it, as ranges in hexadecimal.
The sets at the end of unicode.h are spelt
out by the patterns of DeepSeek's tokenizers and stand here as code points, because the letters of V1 do not survive
Unicode normalisation.
"""
import json
import sys

# Names in the file, in the order of the bits of text/unicode.h.
CLASSES = ["L", "M", "N", "P", "S", "space", "digits", "word"]

LINE_END = "A D"
V1_LETTER = """
41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F 386 388-38A 38C 38E-3A1 3A3-3F5
3F7-481 48A-52F 531-556
10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF 1D00-1D2B 1D6B-1D77 1D79-1D9A 1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D
1F50-1F57 1F59 1F5B 1F5D
1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE 1FC2-1FC4 1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 2107
210A-2113 2115 2119-211D 2124 2126
2128 212A-212D 212F-2134 2139 213C-213F 2145-2149 214E 2183 2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2 2CF3 A640-A66D
A680-A69B A722-A76F A771-A787
A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F 104B0-104D3 104D8-104FB 10C80-10CB2 10CC0-10CF2
118A0-118DF 1E900-1E943
"""
V1_PUNCTUATION = "21-2F 3A-7E FF01-FF0F FF1A-FF5E 2018-201F 3000-3002"
V1_CJK = "4E00-9FA5 800-4E00 AC00-D7FF"
V3_CJK = "4E00-9FA5 3040-309F 30A0-30FF"


def code_points(ranges):
    for part in ranges.split():
        first, _, last = part.partition("-")
        yield from range(int(first, 16), int(last or first, 16) + 1)


def numbers(values, width):
    lines, line = [], ""
    for value in values:
        item = f"{value}," if not line else f" {value},"
        if len(line) + len(item) > width:
            lines.append(line)
            line, item = "", f"{value},"
        line += item
    return lines + [line]


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: make-unicode-tables.py unicode-classes.json")
    with open(sys.argv[1], encoding="ascii") as file:
        stored = {entry["class"]: entry["ranges"] for entry in json.load(file)["classes"]}
    sets = [stored[name] for name in CLASSES] + [LINE_END, V1_LETTER, V1_PUNCTUATION, V1_CJK, V3_CJK]
    bits = [0] * 0x110000
    for index, ranges in enumerate(sets):
        for character in code_points(ranges):
            bits[character] |= 1 << index
    rows, blocks = {}, []
    for start in range(0, len(bits), 128):
        blocks.append(rows.setdefault(tuple(bits[start:start + 128]), len(rows)))
    if len(rows) > 256:
        sys.exit(f"{len(rows)} distinct blocks: their numbers do not fit into a byte")
    print(
        "/* Character classes of Unicode 16.0 (text/unicode.h). Written by tools/make-unicode-tables.py: change that, not this. */"
    )
    print('#include "text/unicode.h"\n')
    print("const uint8_t unicode_block_of[0x110000 >> 7] = {")
    for line in numbers(blocks, 136):
        print("    " + line)
    print("};\n")
    print(f"const uint16_t unicode_classes[{len(rows)}][128] = {{")
    for row in rows:
        print("    {")
        for line in numbers(row, 132):
            print("        " + line)
        print("    },")
    print("};")


main()
