#!/usr/bin/env python3
"""Writes src/text/unicode_runs.h: the character classes of text/unicode.h as runs of characters with the same ones, of
which src/text/unicode.c makes its tables.

    tools/make-unicode-tables.py tests/text/data/unicode-classes.json > src/text/unicode_runs.h

The input lists, for each class, the code points that the reference tokenizer counts to it, as ranges in hexadecimal.
The sets at the end of unicode.h are spelt out by the patterns of DeepSeek's tokenizers and stand here as code points,
because the letters of V1 do not survive Unicode normalisation.
"""
import itertools
import json
import string
import sys
import textwrap

# Names in the file, in the order of the bits of text/unicode.h.
CLASSES = ["L", "M", "N", "P", "S", "space", "digits", "word"]
BITS = ["LETTER", "MARK", "NUMBER", "PUNCTUATION", "SYMBOL", "SPACE", "DIGIT", "WORD", "LINE_END", "V1_LETTER",
        "V1_PUNCTUATION", "V1_CJK", "V3_CJK"]

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
    blocks = [set(bits[start:start + 128]) for start in range(0, len(bits), 128)]
    rows = sum(len(block) > 1 for block in blocks) + len({min(block) for block in blocks if len(block) == 1})
    if rows > 256:
        sys.exit(f"{rows} rows of unicode_classes: their numbers do not fit into a byte")
    runs = [(bits, len(list(characters))) for bits, characters in itertools.groupby(bits)]
    letters = dict(zip(dict(runs), string.ascii_letters))
    print("""\
/* Character classes of Unicode 16.0 in runs. Written by tools/make-unicode-tables.py: change that, not this. */
#ifndef DEEPSEEK_TEXT_UNICODE_RUNS_H
#define DEEPSEEK_TEXT_UNICODE_RUNS_H

/* The letter that stands for a set of classes. */
static const uint16_t unicode_sets[128] = {""")
    for bits, letter in letters.items():
        names = [f"UNICODE_{name}" for index, name in enumerate(BITS) if bits >> index & 1]
        print(f"    ['{letter}'] = {' | '.join(names) or 0},")
    print("""\
};

/* From U+0000 to U+10FFFF: how many characters (nothing for one) have the classes of a letter. */
static const char *const unicode_runs[] = {""")
    for line in textwrap.wrap(" ".join(f"{length if length > 1 else ''}{letters[bits]}" for bits, length in runs), 113):
        print(f'    "{line}",')
    print("};\n\n#endif")


main()
