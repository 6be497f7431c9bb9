#!/bin/sh
# `make install DESTDIR=...`: what is there, what it exports, and that the examples compile against it through
# pkg-config, with the shared and with the static library, and run.
: "${BUILD:?the build folder}" "${DEEPSEEK:?the path of the program}"
cd "$(dirname "$0")/../.." || exit 1
passed=0 failed=0
T=$(mktemp -d) || exit 1
trap 'rm -rf "$T"' EXIT
trap 'exit 1' HUP INT TERM
CC=${CC:-gcc}

ok() { passed=$((passed + 1)); }
bad() {
    failed=$((failed + 1))
    echo "FAIL  $1"
    [ ! -s "$T/log" ] || sed 's/^/      /' "$T/log" | tail -n 12
}
expect() { # NAME COMMAND...
    _name=$1
    shift
    if "$@" >"$T/log" 2>&1; then ok; else bad "$_name"; fi
}
finish() {
    echo "$passed passed, $failed failed"
    [ $failed -eq 0 ]
    exit
}
# Apart from the make that runs the tests: its job server is not for this one.
install() { env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL make BUILD="$BUILD" CC="$CC" ${CFLAGS:+CFLAGS="$CFLAGS"} "$@"; }

D=$T/destination/usr
expect 'make install' install install DESTDIR="$T/destination" PREFIX=/usr
version=$(sed -n 's/^#define DS_VERSION_STRING "\(.*\)"/\1/p' include/deepseek.h)
for file in bin/deepseek lib/libdeepseek.a lib/libdeepseek.so "lib/libdeepseek.so.$version" include/deepseek.h \
    lib/pkgconfig/deepseek.pc share/man/man1/deepseek.1 share/man/man1/deepseek-train.1 \
    share/bash-completion/completions/deepseek share/zsh/site-functions/_deepseek \
    share/fish/vendor_completions.d/deepseek.fish; do
    expect "installed: $file" [ -s "$D/$file" ]
done
expect 'nothing of the destination in a file' sh -c "! grep -rl '$T' '$D/lib/pkgconfig' '$D/share'"
expect 'the program runs' sh -c "[ \"\$('$D/bin/deepseek' --version)\" = 'deepseek $version' ]"
for command in $("$DEEPSEEK" --help=commands | tr ' ' -); do expect "a manual page: deepseek-$command" \
    [ -s "$D/share/man/man1/deepseek-$command.1" ]; done

# ---- what the libraries show ----
nm -D --defined-only "$D/lib/libdeepseek.so" | awk '{print $NF}' | sed 's/@.*//' | sort >"$T/shared"
nm --defined-only -g "$D/lib/libdeepseek.a" 2>/dev/null | awk 'NF == 3 {print $3}' | sort >"$T/static"
sed -n 's/^[a-z].*[ *]\(ds_[a-z_]*\)(.*/\1/p' include/deepseek.h | sort >"$T/header"
expect 'the header declares functions' [ "$(wc -l <"$T/header")" -gt 30 ]
expect 'the shared library exports the functions of the header and nothing else' diff "$T/header" "$T/shared"
expect 'the static library too' diff "$T/header" "$T/static"
expect 'its soname' sh -c "readelf -d '$D/lib/libdeepseek.so' | grep -q 'SONAME.*\[libdeepseek.so.${version%%.*}\]'"

# ---- the header, alone, in C and C++ ----
echo '#include <deepseek.h>
int main(void) { return ds_version() == DS_VERSION ? 0 : 1; }' >"$T/version.c"
expect 'the header in C11' $CC -std=c11 -pedantic -Wall -Wextra -Werror -I"$D/include" -fsyntax-only "$T/version.c"

command -v pkg-config >/dev/null 2>&1 || { echo 'no pkg-config here'; finish; }
PKG_CONFIG_PATH=$D/lib/pkgconfig PKG_CONFIG_SYSROOT_DIR=$T/destination PKG_CONFIG_ALLOW_SYSTEM_CFLAGS=1 \
    PKG_CONFIG_ALLOW_SYSTEM_LIBS=1
export PKG_CONFIG_PATH PKG_CONFIG_SYSROOT_DIR PKG_CONFIG_ALLOW_SYSTEM_CFLAGS PKG_CONFIG_ALLOW_SYSTEM_LIBS
expect 'pkg-config: the version' sh -c "[ \"\$(pkg-config --modversion deepseek)\" = '$version' ]"
flags=$(pkg-config --cflags --libs deepseek)
static=$(pkg-config --static --cflags --libs deepseek | sed 's/-ldeepseek/-Wl,-Bstatic -ldeepseek -Wl,-Bdynamic/')
cpp=${CC%gcc*}g++
case $CC in *clang*) cpp=clang++ ;; esac
if command -v "$cpp" >/dev/null 2>&1; then
    cp "$T/version.c" "$T/version.cpp"
    expect 'the header in C++' $cpp -std=c++11 -pedantic -Wall -Wextra -Werror "$T/version.cpp" $flags -o "$T/version"
    expect 'the header in C++: runs' env LD_LIBRARY_PATH="$D/lib" "$T/version"
fi

# ---- the examples ----
yes 'The cat sat on the mat. The dog lay by the door.' | head -n 40 >"$T/text"
for kind in shared static; do
    case $kind in shared) link=$flags ;; static) link=$static ;; esac
    for name in train generate; do
        # shellcheck disable=SC2086  # lists of flags
        expect "$name, $kind: compiles without a warning" $CC -std=c11 -O1 -Wall -Wextra -Werror examples/$name.c \
            $link -o "$T/$name-$kind"
    done
    expect "train, $kind: runs" env LD_LIBRARY_PATH="$D/lib" "$T/train-$kind" "$T/text" "$T/model-$kind" 60
    cp "$T/log" "$T/train-$kind.log"
    expect "train, $kind: learns" awk \
        '/^step 1 / {first = $4} /^step 60 / {last = $4} END {exit !(first > 4 && last < 2)}' "$T/train-$kind.log"
    expect "generate, $kind: runs" env LD_LIBRARY_PATH="$D/lib" "$T/generate-$kind" "$T/model-$kind" 'The cat'
    cp "$T/log" "$T/generate-$kind.log"
    expect "generate, $kind: writes the prompt and more" [ "$(grep -c '^The cat.' "$T/generate-$kind.log")" -eq 2 ]
    expect "train, $kind: no text" sh \
        -c "LD_LIBRARY_PATH='$D/lib' '$T/train-$kind' '$T/nowhere' '$T/never' 2>&1 | grep -q 'nowhere: No such file'"
    expect "generate, $kind: no model" sh \
        -c "LD_LIBRARY_PATH='$D/lib' '$T/generate-$kind' '$T/nowhere' 2>&1 | grep -q '^not found: .*nowhere'"
done
expect 'the static program needs no libdeepseek.so' sh -c "! readelf -d '$T/train-static' | grep -q libdeepseek"
expect 'the shared one does' sh -c "readelf -d '$T/train-shared' | grep -q 'libdeepseek.so.${version%%.*}'"
expect 'both write the same' diff "$T/train-shared.log" "$T/train-static.log"
expect 'both generate the same' diff "$T/generate-shared.log" "$T/generate-static.log"
expect 'the program generates from the folder' "$D/bin/deepseek" generate "$T/model-shared" -p 'The ' -n 5 -q

# ---- away again ----
: >"$D/lib/libdeepseek.so.${version%%.*}.0.0-older"
expect 'make uninstall' install uninstall DESTDIR="$T/destination" PREFIX=/usr
expect 'nothing is left' sh -c "[ -z \"\$(find '$T/destination' ! -type d)\" ]"

# ---- odd places ----
odd="$T/a place"
expect 'a prefix with blanks' install install PREFIX="$odd"
PKG_CONFIG_PATH=$odd/lib/pkgconfig PKG_CONFIG_SYSROOT_DIR=
expect 'a prefix with blanks: compiles' sh \
    -c "eval $CC \"\$(pkg-config --cflags deepseek)\" '$T/version.c' -o '$T/odd' \"\$(pkg-config --libs deepseek)\""
expect 'a prefix with blanks: runs' env LD_LIBRARY_PATH="$odd/lib" "$T/odd"
expect 'a prefix with blanks: make uninstall' install uninstall PREFIX="$odd"
expect 'a prefix with blanks: nothing is left' [ -z "$(find "$odd" ! -type d)" ]
for prefix in relative '~/.local'; do
    install install PREFIX="$prefix" >"$T/told" 2>&1
    expect "PREFIX=$prefix is refused" grep -q 'PREFIX: found .*, expected a path that begins with /' "$T/told"
    expect "PREFIX=$prefix: nothing was made" [ ! -e "$prefix" ]
done
finish
