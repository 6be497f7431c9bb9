#!/usr/bin/env python3
"""The plan of the house: which folder of src/ may include which, no circles between the files of a room, no header that
is included in the middle of another, lines of at most 120 columns in code and pages (rows of tables, what is shown
as it was printed, and literals that cannot be cut apart). First the checks themselves, on small trees."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# A folder may include itself and those before it; io and text stand on base, train and infer are neighbours.
LEVELS = {"base": 0, "io": 1, "kernels": 2, "text": 2, "graph": 3, "model": 4, "train": 5, "infer": 5, "api": 6}
LEVELS["cli"] = 6
ROOMS_WITH_CIRCLES = {"model"}  # blocks and passes know each other
TABLES = re.compile(r"stories_")  # rows of tables may be long
INCLUDE = re.compile(r'^\s*#\s*include\s+"([a-z]+)/([a-z0-9_]+)\.h"')


def without_comments(text):
    return re.sub(r"/\*.*?\*/|//[^\n]*", lambda m: re.sub(r"[^\n]", " ", m[0]), text, flags=re.S)


def includes(text):
    """(line number, folder, name) of every include of the house, and the line of the first that follows code."""
    found, middle, code = [], None, False
    for number, line in enumerate(without_comments(text).splitlines(), 1):
        match = INCLUDE.match(line)
        if match:
            found.append((number, match[1], match[2]))
            if code and middle is None:
                middle = number
        elif line.strip() and not line.lstrip().startswith("#") and not line.endswith("\\"):
            code = True
    return found, middle


def circles(graph):
    """Groups of names that reach each other."""
    index, low, stack, groups = {}, {}, [], []

    def visit(name):
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(graph.get(name, ())):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            at = stack.index(name)
            if len(stack) - at > 1:
                groups.append(sorted(stack[at:]))
            del stack[at:]

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return groups


def complaints(files):
    """files: path below src/ -> text."""
    said, graph = [], {}
    for path, text in sorted(files.items()):
        folder, name = path.split("/")
        found, middle = includes(text)
        if middle and path.endswith(".h"):
            said.append(f"{path}:{middle}: included in the middle of a header")
        for number, other, header in found:
            if other not in LEVELS or (other != folder and LEVELS[other] >= LEVELS[folder]):
                said.append(f"{path}:{number}: {folder} may not include {other}/{header}.h")
            if other == folder and header != name[:-2]:
                graph.setdefault(f"{folder}/{name[:-2]}", set()).add(f"{other}/{header}")
        if not TABLES.search(path):
            for number, line in enumerate(text.splitlines(), 1):
                if len(line) > 120:
                    said.append(f"{path}:{number}: {len(line)} columns")
    for group in circles(graph):
        if group[0].split("/")[0] not in ROOMS_WITH_CIRCLES:
            said.append("a circle: " + ", ".join(group))
    return said


LITERAL = re.compile(r"""'[^']*'|"(?:[^"\\]|\\.)*"|/\S+""")


def too_wide(name, line):
    """Is a line over 120 columns for another reason than a row of a table, or something that cannot be cut?"""
    if len(line) <= 120 or TABLES.search(name):
        return False
    if name.endswith(".md"):  # a row of a table, what a program printed
        return not line.startswith(("|", "   |", "    "))
    if name.endswith((".c", ".h", ".cpp")):
        return True
    literals = [m[0] for m in LITERAL.finditer(line)]
    return max(map(len, literals), default=0) < 40


def main():
    good = {
        "base/a.h": "int a;\n",
        "kernels/b.h": '#include "base/a.h"\nint b;\n',
        "kernels/b.c": '#include "kernels/b.h"\n',
    }
    bad = {
        "an upward include": {"base/a.h": '#include "model/m.h"\n'},
        "a neighbour": {"train/a.c": '#include "infer/b.h"\n'},
        "a circle": {"text/a.c": '#include "text/b.h"\n', "text/b.h": '#include "text/a.h"\n'},
        "a longer circle": {f"cli/{x}.c": f'#include "cli/{y}.h"\n' for x, y in ("ab", "bc", "ca")},
        "in the middle": {"kernels/a.h": 'int a;\n#include "kernels/b.h"\n'},
        "a wide line": {"base/a.c": "/* " + "x" * 120 + " */\n"},
    }
    results = [("a good tree", not complaints(good))]
    results += [(name, len(complaints(tree)) == 1) for name, tree in bad.items()]
    results += [
        ("a wide line of a page", too_wide("a.md", "x " * 70)),
        ("a row of a table", not too_wide("a.md", "| x " * 40)),
        ("a wide line of a script", too_wide("a.sh", "true && " * 20)),
        ("a literal that cannot be cut", not too_wide("a.sh", "check '" + "x" * 120 + "'")),
    ]
    files = {f"{p.parent.name}/{p.name}": p.read_text() for p in ROOT.glob("src/*/*.[ch]")}
    paths = [p for folder in ("tests", "bench", "include", "tools", "docs", "examples", ".ci")
             for p in (ROOT / folder).glob("**/*") if p.suffix in (".c", ".h", ".cpp", ".py", ".sh", ".md")]
    paths += ROOT.glob("*.md")
    wide = [f"{p.relative_to(ROOT)}:{n}: {len(line)} columns"
            for p in sorted(paths) for n, line in enumerate(p.read_text().splitlines(), 1) if too_wide(p.name, line)]
    said = complaints(files) + wide
    results.append((f"the {len(files)} files of src/", len(files) > 100 and not said))
    for line in said[:40]:
        print(line)
    for name, passed in results:
        if not passed:
            print(f"FAILED: {name}")
    good_ones = sum(passed for _, passed in results)
    print(f"{good_ones} passed, {len(results) - good_ones} failed")
    return 0 if good_ones == len(results) else 1


sys.exit(main())
