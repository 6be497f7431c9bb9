#!/bin/sh
# Says which Debian packages a build lacks, and how to install them; silent when nothing is missing.
# With --list it prints the missing names alone, those that only the tests need included.
# A package is looked for by what it provides (a tool, a header), so that other ways of installing it are fine too.
set -u

missing=
need() { missing="$missing $1"; }
tool() { command -v "$1" >/dev/null 2>&1; }

compiler=${CC:-gcc}
compiler=${compiler%% *}
# Can the compiler find this header? Without a compiler look where headers usually are.
header() {
    if tool "$compiler"; then
        echo "#include <$1>" | "$compiler" -E -x c - >/dev/null 2>&1
    else
        [ -e "/usr/include/$1" ] || [ -e "/usr/local/include/$1" ]
    fi
}

tool "$compiler" || case $compiler in
    *clang*) need clang ;;
    *) need gcc ;;
esac
tool ar || need binutils
tool make || need make
header stdio.h || need libc6-dev
header jansson.h || need libjansson-dev
header xxhash.h || need libxxhash-dev
header editline/readline.h || need libedit-dev
# cmocka.h needs four headers before it.
if [ "${1:-}" = --list ]; then
    [ -e /usr/include/cmocka.h ] || [ -e /usr/local/include/cmocka.h ] || need libcmocka-dev
    tool pkg-config || need pkg-config
    echo "${missing# }"
    exit 0
fi

[ -z "$missing" ] && exit 0
{
    echo "Missing to build deepseek.c:$missing (names of Debian and Ubuntu packages)"
    if tool apt-get; then
        echo "Install with: sudo apt-get install$missing (make test and make demo do that by themselves)"
    fi
} >&2
exit 1
