#!/usr/bin/env python3
"""Every flag of every command with wrong values: exit code 2, and a message that names the flag, what was found and
what was expected.

The flags come from `deepseek --help=json`, so that commands and flags that are added later are covered too. Also here:
arguments that are no UTF-8 or hold control characters, and the
completion scripts and manual pages, which come from the same tables."""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

program = os.environ["DEEPSEEK"]
root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
passed = failed = 0


def run(arguments, **more):
    """(exit code, standard output, standard error), both as bytes."""
    done = subprocess.run([program] + arguments, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, **more)
    return done.returncode, done.stdout, done.stderr


def check(name, condition, told=""):
    global passed, failed
    if condition:
        passed += 1
    else:
        failed += 1
        print("FAIL  " + name)
        print("      " + str(told)[:400])


def refused(name, arguments, *parts):
    """Exit code 2, nothing on standard output, one line that holds all parts and says where help is."""
    code, out, err = run(arguments)
    message = err.decode("utf-8", "strict")
    lines = message.splitlines()
    check(
        name,
        code == 2 and not out and len(lines) == 1 and all(part in message for part in parts) and "--help`)" in message,
        (code, message, parts),
    )


def wrong_values(option):
    """Pairs of a wrong value and what the message must say of the expected one."""
    kind = option["kind"]
    if kind == "choice":
        known = option["choices"][0]
        for value in ["nonsense", "", known + "x", known.upper() + "?", " " + known]:
            if value not in option["choices"]:
                yield value, "expected " + known
    elif kind in ("integer", "integers"):
        for value in [
            "x",
            "",
            " 1",
            "1 ",
            "1.5",
            "1e",
            "0x10",
            "+1",
            "--",
            "99999999999999999999",
            "-99999999999999999999",
            "1,",
            "\N{ARABIC-INDIC DIGIT ONE}",
        ]:
            if kind == "integers" and "," in value:
                yield value, "expected an integer"
                continue
            yield value, "expected an integer"
        if "minimum" in option:
            yield str(int(option["minimum"]) - 1), "expected an integer"
            if option["maximum"] < 9e18:
                yield str(int(option["maximum"]) + 1), "expected an integer"
    elif kind == "number":
        for value in ["x", "", " 1", "1 ", "nan", "inf", "-inf", "1e999", "0x1p3", "1,5", "."]:
            yield value, "expected a number"
        if "minimum" in option:
            yield repr(option["minimum"] - 0.001), "expected a number"
            if option["maximum"] < 1e15:
                yield repr(option["maximum"] * 1.01 + 1), "expected a number"


listing = json.loads(run(["--help=json"])[1])
commands = {entry["command"]: entry for entry in listing}
names = run(["--help=commands"])[1].decode().split("\n")[:-1]
check("commands are listed", len(commands) >= 8 and set(commands) <= set(names), names)

for command, entry in commands.items():
    words = command.split()
    operands = ["x" for operand in entry["operands"] if not operand["optional"]]
    code, out, err = run(words + ["--help=json"])
    check(command + ": --help=json is its part of the listing", code == 0 and not err and json.loads(out) == entry, err)
    for option in entry["options"]:
        flag = "--" + option["name"]
        here = command + " " + flag
        check(here + ": has a help text", len(option["help"]) > 5, option)
        if option["kind"] == "flag":
            refused(here + "=yes", words + operands + [flag + "=yes"], flag, "takes no value")
            continue
        refused(here + " without a value", words + operands + [flag], flag, "needs a value", option["argument"])
        if "letter" in option:
            refused(
                command + " -" + option["letter"] + " without a value",
                words + operands + ["-" + option["letter"]],
                flag,
                "needs a value",
            )
        for value, expected in wrong_values(option):
            found = "found `" + (value.split(",")[-1] if option["kind"] == "integers" else value) + "`"
            refused(here + " '" + value + "'", words + operands + [flag + "=" + value], flag, found, expected)
        if option["kind"] in ("choice", "integer", "integers", "number"):
            for value, shown in [
                (b"\xff\xfe", "\ufffd\ufffd"),
                (b"caf\xc3", "caf\ufffd"),
                (b"\x1b[31m", "?[31m"),
                ("\N{SPOUTING WHALE}".encode(), "\N{SPOUTING WHALE}"),
            ]:
                refused(
                    here + " " + repr(value),
                    words + operands + [flag.encode() + b"=" + value],
                    flag,
                    "found `" + shown + "`",
                )
            refused(here + ": a very long value", words + operands + [flag + "=" + 5000 * "x"], flag, "found `xxx")
        if option["required"]:
            others = []
            for other in entry["options"]:
                if other["required"] and other is not option:
                    others += ["--" + other["name"], other.get("choices", ["x"])[0]]
            refused(here + " is missing", words + operands + others, flag + " is missing")
    refused(
        command + ": one argument too many", words + ["x"] * (len(entry["operands"]) + 1), "unexpected argument `x`"
    )
    refused(
        command + ": an unknown option",
        words + operands + ["--no-such-option-at-all"],
        "unknown option --no-such-option-at-all",
    )
    refused(
        command + ": an unknown option, no UTF-8", words + operands + [b"--\xff\xfe"], "unknown option --\ufffd\ufffd"
    )
    refused(command + ": an unknown letter", words + operands + ["-?"], "unknown option -?")
    if entry["operands"]:
        code, out, err = run(
            words
            + [b"no\xffwhere\n\x07"]
            + sum([["--" + o["name"], "x"] for o in entry["options"] if o["required"]], [])
        )
        check(
            command + ": an operand that is no UTF-8 is named all the same",
            code in (1, 2) and err.decode("utf-8", "strict") and b"\x07" not in err,
            (code, err),
        )
refused("an unknown command, no UTF-8", [b"\xff\xff"], "unknown command `\ufffd\ufffd`")
refused(
    "an unknown form of help",
    ["--help=html"],
    "--help: found `html`, expected nothing, man, json, bash, zsh, fish or commands",
)

# ---- help texts: usage, examples that name files that exist, 80 columns --------------------------------------------

for name in names:
    code, out, err = run(name.split() + ["--help"])
    text = out.decode("utf-8", "strict")
    check(name + " --help", code == 0 and not err and text.startswith("usage: deepseek " + name + " "), text[:80])
    check("help " + name, run(["help"] + name.split())[1] == out)
    long = [line for line in text.splitlines() if len(line) > 80 and not line.startswith("  deepseek ")]
    check(name + " --help: 80 columns", not long, long)
    if name in commands:
        check(name + " --help: examples", "\nExamples:\n" in text and "\n  deepseek " + name in text, text[-300:])
        check(name + " --help: wins over everything else", run(name.split() + ["--nonsense", "--help", "x"])[1] == out)
        for path in re.findall(r"(?:configs|data|bench)/[A-Za-z0-9_./-]*[A-Za-z0-9]", text):
            check(name + " --help: " + path + " exists", os.path.exists(os.path.join(root, path)))
    else:
        refused(name + ": nothing below it is named", name.split(), "what to do is missing")
        refused(name + ": something unknown below it", name.split() + ["xyzzy"], "unknown `" + name + " xyzzy`")
        refused(name + ": an option first", name.split() + ["--threads"], "found option --threads")

# ---- completion: the scripts are sound, and every command, option and choice is offered ----------------------------

folder = tempfile.mkdtemp()
try:
    scripts = {}
    for shell in ("bash", "zsh", "fish"):
        code, out, err = run(["--help=" + shell])
        scripts[shell] = os.path.join(folder, shell)
        open(scripts[shell], "wb").write(out)
        check(shell + ": printed", code == 0 and len(out) > 1000 and not err, err)
        if shutil.which(shell):
            syntax = subprocess.run([shell, "-n", scripts[shell]], capture_output=True)
            check(shell + ": syntax", syntax.returncode == 0 and not syntax.stderr, syntax.stderr)
    for command, entry in commands.items():
        text = {shell: open(path, encoding="utf-8").read() for shell, path in scripts.items()}
        for option in entry["options"]:
            here = command + " --" + option["name"]
            check(here + ": in zsh", "--" + option["name"] in text["zsh"])
            check(here + ": in fish", "'__deepseek_at %s' -l %s " % (command, option["name"]) in text["fish"])
            if option["kind"] == "choice":
                check(here + ": choices in zsh", "(" + " ".join(option["choices"]) + ")" in text["zsh"])
                check(here + ": choices in fish", "-a '" + " ".join(option["choices"]) + "'" in text["fish"])

    os.makedirs(os.path.join(folder, "place", "inner folder"))
    open(os.path.join(folder, "place", "in a file.json"), "w").close()
    asked = []

    def ask(words, expected, exactly=False):
        """What completes the last word must hold `expected`."""
        asked.append((words, set(expected), exactly))

    leaves = [name for name in names if name in commands]
    first = {name.split()[0] for name in names}
    ask([""], first | {"help"})
    ask(["help", ""], first)
    for name in names:
        if name not in commands:
            below = {other.split()[-1] for other in leaves if other.startswith(name + " ")}
            ask(name.split() + [""], below)
            ask(["help"] + name.split() + [""], below, True)
    for command, entry in commands.items():
        words = command.split()
        ask(
            words + ["-"],
            {"--" + o["name"] for o in entry["options"]}
            | {"-" + o["letter"] for o in entry["options"] if "letter" in o}
            | {"--help", "-h"},
            True,
        )
        for option in entry["options"]:
            flags = ["--" + option["name"]] + (["-" + option["letter"]] if "letter" in option else [])
            for flag in flags if option["kind"] != "flag" else []:
                argument = option["argument"]
                if option["kind"] == "choice":
                    ask(words + [flag, ""], option["choices"], True)
                    ask(
                        words + [flag, option["choices"][0][:2]],
                        [c for c in option["choices"] if c.startswith(option["choices"][0][:2])],
                        True,
                    )
                elif "FILE" in argument or ".json" in argument:
                    ask(words + [flag, "in"], ["in a file.json", "inner folder"], True)
                elif any(word in argument for word in ("DIR", "MODEL", "RUN", "FOLDER")):
                    ask(words + [flag, "in"], ["inner folder"], True)
                else:
                    ask(words + [flag, "in"], [], True)
            if option["kind"] == "choice":
                ask(words + ["--" + option["name"], "=", ""], option["choices"], True)
        if entry["operands"]:
            name = entry["operands"][0]["name"]
            if "FILE" in name or ".json" in name:
                ask(words + ["in"], ["in a file.json", "inner folder"], True)
            elif "MODEL" in name or "DIR" in name:
                ask(words + ["in"], ["inner folder"], True)
    if shutil.which("bash"):
        lines = ["cd " + os.path.join(folder, "place"), "source " + scripts["bash"]]
        for words, _, _ in asked:
            quoted = " ".join("'" + word + "'" for word in ["deepseek"] + words)
            lines.append(
                "COMP_WORDS=(%s); COMP_CWORD=%d; COMPREPLY=(); _deepseek; printf '%%s\\t' \"${COMPREPLY[@]}\"; echo"
                % (quoted, len(words))
            )
        done = subprocess.run(["bash", "--norc", "-c", "\n".join(lines)], capture_output=True, timeout=60)
        answers = done.stdout.decode().split("\n")[:-1]
        check("bash: answers", len(answers) == len(asked) and not done.stderr, done.stderr[:400])
        for (words, expected, exactly), answer in zip(asked, answers):
            offered = set(answer.split("\t")) - {""}
            check(
                "bash: " + " ".join(words) + "<Tab>",
                offered == expected if exactly else offered >= expected,
                (expected, offered),
            )

    if shutil.which("fish"):   # it offers more (files where anything may stand), so what must be there is looked for
        asked_fish = [(words, expected) for words, expected, _ in asked if expected and "=" not in words]
        lines = ["cd " + os.path.join(folder, "place"), "source " + scripts["fish"]]
        for words, _ in asked_fish:
            lines.append(
                "echo (complete -C '%s' | string split -f 1 \\t | string unescape)\\t | string join ''; echo '<'"
                % " ".join(["deepseek"] + words)
            )
        done = subprocess.run(
            ["fish", "--no-config", "-c", "\n".join(lines)],
            capture_output=True,
            timeout=120,
            env=dict(os.environ, HOME=folder),
        )
        answers = done.stdout.decode().split("<\n")[:-1]
        check("fish: answers", len(answers) == len(asked_fish), done.stderr[:400])
        for (words, expected), answer in zip(asked_fish, answers):
            check("fish: " + " ".join(words) + "<Tab>", all(value in answer for value in expected), (expected, answer))

    # ---- manual pages ----------------------------------------------------------------------------------------------
    for name in [""] + names:
        code, out, err = run(name.split() + ["--help=man"])
        text = out.decode("utf-8", "strict")
        check(
            "man " + name,
            code == 0 and not err and ".SH NAME" in text and ".SH SYNOPSIS" in text and ".SH DESCRIPTION" in text,
        )
        for option in commands[name]["options"] if name in commands else []:
            check(
                "man %s: --%s" % (name, option["name"]), "\\-\\-" + option["name"].replace("-", "\\-") + "\\fR" in text
            )
        path = os.path.join(folder, "page.1")
        open(path, "wb").write(out)
        if shutil.which("groff"):
            done = subprocess.run(["groff", "-man", "-ww", "-z", "-K", "utf8", path], capture_output=True)
            check("man %s: groff has nothing to say" % name, done.returncode == 0 and not done.stderr, done.stderr)
        if shutil.which("mandoc"):   # a page has no date, since nothing that is built says when
            done = subprocess.run(["mandoc", "-Tlint", "-W", "warning", path], capture_output=True)
            told = [line for line in done.stdout.decode().splitlines() if "missing date" not in line]
            check("man %s: mandoc has nothing to say" % name, not told, told)
finally:
    shutil.rmtree(folder)

print("%d passed, %d failed" % (passed, failed))
sys.exit(failed != 0)
