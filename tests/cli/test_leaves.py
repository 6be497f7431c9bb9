#!/usr/bin/env python3
"""deepseek grads: the gradient of a step is the sum of its leaves' in order, which grads computes one by one; how a
leaf is cut and threads may not matter."""
import array, json, os, random, shutil, struct, subprocess, tempfile

PROGRAM, HERE = os.environ.get("DEEPSEEK", "./deepseek"), os.path.dirname(os.path.abspath(__file__))
passed = failed = 0
folder = tempfile.mkdtemp()


def check(what, ok, figure=""):
    global passed, failed
    passed, failed = passed + bool(ok), failed + (not ok)
    if not ok:
        print(f"FAIL  {what} {figure}")


def grads(model, rows, compute, threads=2, **settings):
    """The tensors of `deepseek grads` by name, as fp32 numbers."""
    paths = [os.path.join(folder, name) for name in ("tokens.json", "settings.json", "out.safetensors")]
    for path, value in zip(paths, (rows, settings)):
        with open(path, "w") as f:
            json.dump(value, f)
    p = subprocess.run([PROGRAM, "grads", os.path.join(HERE, "..", "golden", model), "-t", paths[0], "-s", paths[1],
                        "-o", paths[2], "--compute", compute, "--threads", str(threads), "-q"],
                       stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if p.returncode:
        return {"loss": p.stderr}
    data = open(paths[2], "rb").read()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    return {name: array.array("f", data[start + t["data_offsets"][0]:start + t["data_offsets"][1]])
            for name, t in json.loads(data[8:start]).items() if name != "__metadata__"}


random.seed(3)
rows = [[random.randrange(80) for _ in range(32)] for _ in range(4)]
for model, loss in (("v1-gqa", {}), ("v2", {"balance_expert": 0.01}), ("v3", {"mtp": 0.3, "balance_sequence": 0.01})):
    for compute in ("fp32", "bf16", "fp8"):
        for micro, leaf in ((1, 1), (1, 2), (2, 2)):
            what = f"{model} {compute}, leaves of {leaf}, micro-batches of {micro}"
            whole = grads(model, rows, compute, loss=loss, micro_batch_size=micro, leaf_size=leaf)
            # A leaf alone is a mean over a half or a quarter of the step's predictions: the exact multiple of its
            # share.
            alone = [grads(model, rows[i:i + leaf], compute, loss=loss, micro_batch_size=micro, leaf_size=leaf)
                     for i in range(0, 4, leaf)]
            share, different = leaf / 4, []
            for name, g in whole.items():
                if name.startswith("loss"):
                    continue
                total = array.array("f", (x * share for x in alone[0][name]))
                for other in alone[1:]:
                    for i, x in enumerate(other[name]):
                        total[i] += x * share
                # numbers, not bytes: the files have zeros where a leaf wrote nothing
                different += [name] * (total != g)
            check(what, not different and len(whole) > 10, different[:5] or whole.get("loss"))
            check(f"{what}: threads",
                  grads(model, rows, compute, 1, loss=loss, micro_batch_size=micro, leaf_size=leaf) == whole)
one, chain = (grads("v1-gqa", rows, "fp32", loss={}, micro_batch_size=m, leaf_size=4) for m in (1, 4))
check("a leaf cut into micro-batches", len(one) > 10 and
      {k: v for k, v in one.items() if "loss" not in k} == {k: v for k, v in chain.items() if "loss" not in k})
check("leaves decide bits", grads("v1-gqa", rows, "fp32", loss={}, micro_batch_size=1) != one)
check("a leaf of broken micro-batches", "leaf_size: found 3, expected a multiple of micro_batch_size 2" in
      grads("v1-gqa", rows, "fp32", micro_batch_size=2, leaf_size=3)["loss"])
shutil.rmtree(folder)
print(f"{passed} passed, {failed} failed")
raise SystemExit(failed > 0)
