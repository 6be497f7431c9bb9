"""What bench/tokenizer.c measures, with the tokenizers library on one thread: encode_batch_fast of the whole text by a
tokenizer that was just loaded, so that its cache is empty.

   tokenizers_peer.py TOKENIZER.json FILE..."""
import os
import statistics
import sys
import time

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
from tokenizers import Tokenizer  # noqa: E402

REPEATS = 3


def timed(work):
    begin = time.perf_counter()
    result = work()
    return time.perf_counter() - begin, result


def main():
    loads = [timed(lambda: Tokenizer.from_file(sys.argv[1]))[0] for _ in range(REPEATS)]
    print(f"load   {1e3 * statistics.median(loads):.1f} ms")
    for path in sys.argv[2:]:
        with open(path, "rb") as file:
            data = file.read()
        text = data.decode("utf-8", "replace")
        encodes, decodes = [], []
        for _ in range(REPEATS):
            tokenizer = Tokenizer.from_file(sys.argv[1])
            seconds, encodings = timed(lambda: tokenizer.encode_batch_fast([text], add_special_tokens=False))
            encodes.append(seconds)
            ids = encodings[0].ids
            decodes.append(timed(lambda: tokenizer.decode(ids, skip_special_tokens=False))[0])
        megabytes = 1e-6 * len(data)
        print(
            f"encode {os.path.basename(path):<32} {len(data):10} bytes {len(ids):10} ids  1 thread {megabytes / statistics.median(encodes):7.1f} MB/s"
            f"{'':24}decode {megabytes / statistics.median(decodes):7.1f} MB/s",
            flush=True,
        )


main()
