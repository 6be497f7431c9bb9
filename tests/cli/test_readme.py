#!/usr/bin/env python3
"""README.md and docs/ say what the program does: every command, option, key of `train`, make target, link and file that
they name exists, every option of every command is in its page docs/commands/NAME.md, and the command lines of README.md
and of docs/tour.md that begin with `$ ` run in their order, with less work, in a folder that holds what a clean clone
holds.

What cannot run here is not typed: make (a test runs inside of one), what needs an installation, and other programs'
libraries."""
import json
import os
import re
import shutil
import subprocess
import tempfile

program = os.environ["DEEPSEEK"]
root = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))
passed = failed = 0


def check(name, condition, told=""):
    global passed, failed
    if condition:
        passed += 1
    else:
        failed += 1
        print("FAIL  " + name)
        print("      " + str(told)[:600])


def read(path):
    with open(os.path.join(root, path), encoding="utf-8") as file:
        return file.read()


pages = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"] + sorted(
    os.path.relpath(os.path.join(folder, name), root)
    for folder, _, names in os.walk(os.path.join(root, "docs"))
    for name in names
    if name.endswith(".md")
)
texts = {page: read(page) for page in pages}
listing = {
    entry["command"]: entry
    for entry in json.loads(subprocess.run([program, "--help=json"], capture_output=True, check=True).stdout)
}
names = subprocess.run([program, "--help=commands"], capture_output=True, check=True, text=True).stdout.split("\n")[:-1]
first_words = {name.split()[0] for name in names}

# ---- every option of every command is in its page ------------------------------------------------------------------

for name in sorted(first_words):
    check(name + " has a page", "docs/commands/%s.md" % name in texts)
    check(name + " is in the list of commands", "](%s.md)" % name in texts["docs/commands/README.md"])
    check(name + " is in the README", "docs/commands/%s.md" % name in texts["README.md"])
for command, entry in listing.items():
    page = texts.get("docs/commands/%s.md" % command.split()[0], "")
    if "\n## " + command + "\n" in page:   # the part about this one of several
        page = page.split("\n## " + command + "\n")[1].split("\n## ")[0]
    for option in entry["options"]:
        written = "`--%s%s`" % (option["name"], " " + option["argument"] if "argument" in option else "")
        either = (
            [written]
            if "|" not in option.get("argument", "")
            else [written] + ["`--%s %s`" % (option["name"], part) for part in option["argument"].split("|")]
        )
        check(
            "%s %s is in the command's page" % (command, written),
            any(form in page for form in either),
            "docs/commands: expected " + written,
        )
        if "letter" in option:
            check("%s -%s is in the command's page" % (command, option["letter"]), "`-%s`" % option["letter"] in page)

# ---- what the pages type exists ------------------------------------------------------------------------------------


def command_lines(text):
    """Lines that run the program: of code blocks (continuation lines joined) and between backticks."""
    text = text.replace("\\\n", " ")
    for line in text.split("\n"):
        spans = [line] if line.startswith("    ") else re.findall(r"`([^`]+)`", line)
        for span in spans:
            for found in re.finditer(r"(?:^|[\s(|])(?:\./)?deepseek ((?:[a-z]+)(?: .*)?)$", span):
                yield found.group(1)


def split_pipeline(line):
    """The words of each part of a pipeline or list, quotes taken away; a comment ends it."""
    parts, words, word, quote, started = [], [], "", None, False
    for c in line + " ":
        if quote:
            if c == quote:
                quote = None
            else:
                word += c
        elif c in "'\"":
            quote, started = c, True
        elif c in " |&;":
            if word or started:
                words.append(word)
            word, started = "", False
            if c != " ":
                parts.append(words)
                words = []
        elif c == "#" and not word:
            break
        else:
            word += c
    return parts + [words]


seen = set()
for page, text in texts.items():
    for line in command_lines(text):
        words = split_pipeline(line)[0]
        if not words or words[0] == "help":
            continue
        command = " ".join(words[:2]) if " ".join(words[:2]) in names else words[0]
        check("%s: deepseek %s is a command" % (page, command), command in names, line)
        if command not in listing:
            continue
        seen.add(command)
        options = {"--" + option["name"] for option in listing[command]["options"]} | {"--help"}
        letters = {option["letter"] for option in listing[command]["options"] if "letter" in option} | {"h"}
        for word in words[1:]:
            if re.match(r"--[a-z]", word):
                check("%s: %s of %s exists" % (page, word, command), word.split("=")[0] in options, line)
            elif re.match(r"-[a-z](\d+)?$", word):
                check("%s: %s of %s exists" % (page, word, command), word[1] in letters, line)
check("every command is typed somewhere", seen == set(listing), set(listing) - seen)

keys = set(
    re.findall(
        r"^  ([a-z_][a-z_0-9.]*)  ",
        subprocess.run([program, "help", "train"], capture_output=True, check=True, text=True).stdout,
        re.M,
    )
)
check("the keys of train are listed", "steps" in keys and "optimizer.learning_rate" in keys, keys)
groups = {key.split(".")[0] for key in keys}
for page, text in texts.items():
    for key in re.findall(r"--set train\.([a-z_0-9.]+)=", text):
        check("%s: train.%s is a key" % (page, key), key in keys or key == "learning_rate" and "unknown key" in text)
    for key in re.findall(r"`train\.([a-z_0-9.]+)", text):
        check(
            "%s: train.%s is a key" % (page, key), key in keys or key in groups or key in ("py", "c", "learning_rate")
        )

makefile = read("Makefile")
for page, text in texts.items():
    for target in re.findall(r"(?:`|\$ |^    )make ([a-z-]+)", text, re.M):
        check(
            "%s: make %s is a target" % (page, target), re.search(r"^[a-z -]*\b%s\b[a-z -]*:" % target, makefile, re.M)
        )
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        check(
            "%s: the link %s leads somewhere" % (page, link),
            os.path.exists(os.path.join(root, os.path.dirname(page), link)),
        )
    for path in re.findall(
        r"(?:^|[\s`(])((?:src|tests|tools|include|examples|configs|bench)/[A-Za-z0-9_./-]*[A-Za-z0-9_])(?=[\s`,;:).]|$)",
        text,
    ):
        if re.search("[A-Z]{4}", path):   # src/cli/NAME.c
            continue
        check("%s: %s exists" % (page, path), os.path.exists(os.path.join(root, path)))

# ---- the README, typed ---------------------------------------------------------------------------------------------


def typed_lines(text):
    """(command, lines printed below it) of code blocks, and (command, None) of rows of tables that begin with one."""
    lines = re.sub(r" *\\\n *", " ", text).split("\n")
    for i, line in enumerate(lines):
        row = re.match(r"\| `(\./deepseek [^`]*)`", line)
        if row:
            yield row.group(1), None
        if not line.startswith("    $ "):
            continue
        printed = []
        for below in lines[i + 1:]:
            if below and not below.startswith("    ") or below.startswith(("    $ ", "    # ")):
                break
            printed.append(below[4:])
        yield line[6:], printed


not_typed = re.compile(
    r"^(make|cc|export|python3|pip|sudo|git|cd|source|man)\b|<<END|build/example-|build/usr|deepseek chat [^ ]+$"
)
less = [
    (r"(--bytes) \S+", r"\1 300K"),
    (r" (-n|--count) \d+( |$)", r" \1 6\2"),
    (r"(deepseek bench .*)", r"\1 --prompt 8 --gen 2 --repeat 1"),
    (
        r"(deepseek train [^&]*)( && .*)?$",
        r"\1 --set train.steps=4 --set train.eval_every=2 --set train.sample_tokens=8 --set train.eval_fraction=0.01\2",
    ),
    (r"(--held-out) \S+", r"\1 0.005"),
    (r"(deepseek train configs/demo\.json .*)", r"\1 --set train.tokenizer=300"),
]
# what is printed can be compared
same_everywhere = re.compile(r"^\./deepseek (data stories --count|info configs/|tokenize [a-z]+ .*runs/tokenizer)")


def type_page(page, only):
    """Runs the page's commands in a folder of its own. How many were run, and of how many the output was compared."""
    folder = tempfile.mkdtemp()
    try:
        for name in ("configs", "data", "examples", "tests"):
            os.symlink(os.path.join(root, name), os.path.join(folder, name))
        os.symlink(os.path.abspath(program), os.path.join(folder, "deepseek"))
        environment = dict(os.environ, XDG_CACHE_HOME=os.path.join(folder, "cache"))
        os.mkdir(os.path.join(folder, "runs"))
        typed = compared = 0
        # at its end the tour shows `make demo`, which types for itself
        for line, printed in typed_lines(texts[page].split("\n## What `make demo` prints\n")[0]):
            if not_typed.search(line) or only and not only.search(line):
                continue
            compare = printed is not None and same_everywhere.search(line)
            shorter = line
            for pattern, replacement in [] if compare else less:
                shorter = re.sub(pattern, replacement, shorter)
            done = subprocess.run(
                ["bash", "-o", "pipefail", "-c", shorter],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=120,
            )
            check("%s: %s" % (page, line), done.returncode == 0, (shorter, done.returncode, done.stderr[-400:]))
            typed += 1
            if compare:
                out = done.stdout.decode()
                missing = [
                    expected
                    for expected in printed
                    if expected not in ("", "...")
                    and not any(
                        expected == found or expected.endswith(" ...") and found.startswith(expected[:-4])
                        for found in out.split("\n")
                    )
                ]
                check("%s: %s prints what the page says" % (page, line), not missing, (missing, out))
                compared += 1
        return typed, compared
    finally:
        shutil.rmtree(folder)


counts = type_page("README.md", None)
check("README.md types commands", counts[0] >= 3, counts)
check("README.md has at most 150 lines", len(texts["README.md"].split("\n")) <= 151)
counts = type_page("docs/tour.md", None)
check("the tour types commands", counts[0] >= 20 and counts[1] >= 3, counts)
counts = [type_page("docs/commands/%s.md" % name, same_everywhere)[1] for name in ("data", "info", "tokenize")]
check(
    "the pages of data, info and tokenize type commands", counts[0] >= 1 and counts[1] >= 1 and counts[2] >= 5, counts
)

print("%d passed, %d failed" % (passed, failed))
raise SystemExit(failed > 0)
