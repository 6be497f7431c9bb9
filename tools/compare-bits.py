#!/usr/bin/env python3
"""Does a change keep the bits of inference? Runs two builds of the program on the same model folders and compares, byte
for byte, what they compute: logits (whole, in chunks, token by token, with an expert cache, with modules), greedy
and drawn continuations with and without drafts, `eval --json` of small runs of each kind, quantised folders.

    tools/compare-bits.py [OPTION]... [OLD [NEW [FOLDERS]]]

OLD      a program, or a commit that is built aside (default: 1d6c44d)
NEW      a program (default: ./deepseek)
FOLDERS  a folder of model folders with tokens.json (default: tests/golden)
--quick  one set of instructions and a sample of the cases: some seconds
-v       a line for every case

Every set of instructions of this machine, every type of products and of caches. What both refuse counts as equal, and
is
counted. The last line says `N passed, N failed`; a difference leaves its case in a line before it."""
import argparse, hashlib, json, os, re, shutil, subprocess, sys, tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FIRST_V4 = re.compile(r"^v4")


def build(commit, folder):
    """The program of a commit, built aside."""
    subprocess.run(["git", "-C", ROOT, "worktree", "add", "--detach", "--force", folder, commit], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    subprocess.run(["make", "-C", folder, "CC=" + os.environ.get("CC", "gcc")], check=True, stdout=subprocess.DEVNULL)
    return os.path.join(folder, "deepseek")


class Case:
    """One command of both programs; {out} in it stands for a file or folder that it writes."""

    def __init__(self, name, isa, command, reads_stdout=True):
        self.name, self.isa, self.command, self.reads_stdout = name, isa, command, reads_stdout

    def result(self, program, out):
        environment = dict(os.environ, DEEPSEEK_ISA=self.isa, XDG_CACHE_HOME=os.path.join(scratch, "cache"))
        done = subprocess.run([program] + [part.replace("{out}", out) for part in self.command], env=environment,
                              cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, timeout=600)
        digest = hashlib.sha256(done.stdout if self.reads_stdout else b"")
        for path in files_of(out):
            digest.update(os.path.relpath(path, out).encode())
            with open(path, "rb") as file:
                digest.update(file.read())
        remove(out)
        said = done.stderr.decode(errors="replace").strip().split("\n")[-1]
        return done.returncode, digest.hexdigest() if done.returncode == 0 else "", said


def files_of(path):
    if os.path.isfile(path):
        return [path]
    return sorted(os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)


def remove(path):
    if os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.exists(path):
        os.remove(path)


def instruction_sets(program):
    """Names that the program takes in DEEPSEEK_ISA here."""
    names = []
    for name in ("reference", "avx2", "avx512", "amx"):
        probe = subprocess.run([program, "info", os.path.join(ROOT, "configs/demo.json"), "--json"],
                               env=dict(os.environ, DEEPSEEK_ISA=name), capture_output=True, cwd=ROOT)
        if probe.returncode == 0:
            names.append(name)
    return names


def of_folder(name, folder, isa, quick):
    """Cases of one model folder with tokens: types of products and caches, cuts, modules, the expert cache."""
    with open(os.path.join(folder, "config.json")) as file:
        config = json.load(file)
    modules, experts = config.get("num_nextn_predict_layers", 0), config.get("n_routed_experts")
    latent = "kv_lora_rank" in config
    tokens = os.path.join(folder, "tokens.json")
    for compute in ("fp32", "bf16", "fp8"):
        for cache in (None, ) if quick else ("fp32", "bf16", "fp8"):
            types = ["--compute", compute, "--quiet"] + (["--cache-type", cache] if cache else [])
            logits = ["logits", folder, "--tokens", tokens, "-o", "{out}"] + types
            label = f"{name} {isa} {compute}/{cache or 'default'}"
            yield Case(f"{label} logits", isa, logits)
            yield Case(f"{label} logits --chunk 3 one thread", isa, logits + ["--chunk", "3", "--threads", "1"])
            if modules:
                yield Case(f"{label} logits --with-mtp", isa, logits + ["--with-mtp"])
            if not quick:
                yield Case(f"{label} logits --chunk 1", isa, logits + ["--chunk", "1"])
            if latent and not quick:
                yield Case(f"{label} logits --prefill expanded", isa, logits + ["--prefill", "expanded"])
            if experts and not quick:
                yield Case(f"{label} logits --expert-cache", isa, logits + ["--expert-cache", "64K"])
            generate = ["generate", folder, "--tokens", tokens, "-n", "12", "--ignore-eos", "--json"] + types
            yield Case(f"{label} generate", isa, generate + ["--temperature", "0"])
            yield Case(f"{label} generate drawn", isa, generate + ["--temperature", "1", "--seed", "5"])
            if modules:
                yield Case(f"{label} generate --draft", isa, generate + ["--temperature", "1", "--draft", str(modules)])
            if experts and not quick:
                yield Case(f"{label} generate --expert-cache", isa,
                           generate + ["--temperature", "0", "--expert-cache", "64K"])
    if not quick:
        for kind in ("fp8", "bf16"):
            yield Case(
                f"{name} {isa} quantize {kind}", isa, ["quantize", folder, "--to", kind, "-o", "{out}", "--quiet"]
            )


def of_run(name, folder, data, isa, quick):
    """Cases of a trained run's model."""
    for compute in ("fp32", "bf16", "fp8"):
        for cache in (None, ) if quick else ("fp32", "bf16", "fp8"):
            types = ["--compute", compute, "--quiet"] + (["--cache-type", cache] if cache else [])
            yield Case(f"{name} {isa} {compute}/{cache or 'default'} eval", isa,
                       ["eval", folder, "--data", data, "--context", "24", "--json"] + types)
            yield Case(f"{name} {isa} {compute}/{cache or 'default'} text", isa,
                       ["generate", folder, "-p", "The king", "-n", "60", "--samples", "3", "--seed", "2"] + types)


def model_folders(parent):
    for name in sorted(os.listdir(parent)):
        folder = os.path.join(parent, name)
        if os.path.exists(os.path.join(folder, "tokens.json")) and not FIRST_V4.match(name):
            yield name, folder


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", nargs="?", default="1d6c44d")
    parser.add_argument("new", nargs="?", default=os.path.join(ROOT, "deepseek"))
    parser.add_argument("folders", nargs="?", default=os.path.join(ROOT, "tests/golden"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("-v", "--verbose", action="store_true")
    options = parser.parse_args()

    worktree = os.path.join(scratch, "old")
    old = os.path.abspath(options.old) if os.path.isfile(options.old) else build(options.old, worktree)
    new = os.path.abspath(options.new)
    isas = instruction_sets(new)
    if instruction_sets(old) != isas:
        sys.exit(
            f"compare-bits: found other sets of instructions: {instruction_sets(old)} and {isas}, expected the same"
        )
    if options.quick:
        isas = isas[-1:]
    folders = list(model_folders(options.folders))
    data = os.path.join(scratch, "text.txt")
    with open(os.path.join(ROOT, "data/tinyshakespeare.txt"), "rb") as source, open(data, "wb") as file:
        file.write(source.read(12000))

    runs = []
    for config in ("tiny", "tiny-v2", "tiny-v3"):
        run = os.path.join(scratch, config)
        subprocess.run(
            [old, "train", os.path.join(ROOT, f"tests/train/{config}.json"), "--data", data, "--out", run, "--quiet"],
            check=True,
            stdout=subprocess.DEVNULL,
            env=dict(os.environ, DEEPSEEK_ISA="reference", XDG_CACHE_HOME=os.path.join(scratch, "cache")),
        )
        runs.append((config, os.path.join(run, "model")))
    if not options.quick:   # and folders in FP8 of those that have none
        for name, folder in folders + runs:
            made = os.path.join(scratch, name + "-fp8")
            if subprocess.run([old, "quantize", folder, "--to", "fp8", "-o", made, "--quiet"], capture_output=True,
                              cwd=ROOT).returncode == 0:
                if os.path.exists(os.path.join(folder, "tokens.json")):
                    shutil.copy(os.path.join(folder, "tokens.json"), made)
                    folders.append((name + "-fp8", made))
                else:
                    runs.append((name + "-fp8", made))

    counts = {"same": 0, "refused": 0, "differ": 0}
    for isa in isas:
        cases = [case for name, folder in folders for case in of_folder(name, folder, isa, options.quick)]
        cases += [case for name, folder in runs for case in of_run(name, folder, data, isa, options.quick)]
        of_isa = dict.fromkeys(counts, 0)
        for case in cases:
            before = case.result(old, os.path.join(scratch, "out"))
            after = case.result(new, os.path.join(scratch, "out"))
            kind = "differ" if before[:2] != after[:2] else "same" if before[0] == 0 else "refused"
            of_isa[kind] += 1
            if kind == "differ":
                print(f"differ   {case.name}: exit {before[0]} and {after[0]}: {before[2]} | {after[2]}")
            elif options.verbose:
                print(f"{kind:8} {case.name}")
        print(
            f"{isa}: {of_isa['same']} the same, {of_isa['refused']} refused by both, {of_isa['differ']} differ",
            flush=True,
        )
        for kind in counts:
            counts[kind] += of_isa[kind]
    if os.path.isdir(worktree):
        subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", worktree], check=False)
    print(f"{counts['same'] + counts['refused']} passed, {counts['differ']} failed")
    return 1 if counts["differ"] or not counts["same"] else 0


if __name__ == "__main__":
    scratch = tempfile.mkdtemp(prefix="compare-bits-")
    try:
        sys.exit(main())
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
