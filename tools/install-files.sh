#!/bin/sh
# Called by `make install` and `make uninstall` (--remove): program, libraries, header, pkg-config file, manual pages
# and shell completion.
# The manual pages and the completion are printed by the program itself, from the tables that its parser reads.
set -eu
: "${PREFIX:?run make install}" "${VERSION:?}" "${SONAME:?}"

# A path in a file that is installed must mean the same from everywhere; a shell may also have left a ~ as it is.
for setting in "PREFIX=$PREFIX" "bindir=$BINDIR" "libdir=$LIBDIR" "includedir=$INCLUDEDIR" "datadir=$DATADIR" \
    "mandir=$MANDIR"; do
    case $setting in
    *=/*) ;;
    *) echo "make install: ${setting%%=*}: found \`${setting#*=}\`, expected a path that begins with /" >&2 && exit 2 ;;
    esac
done

bin=$DESTDIR$BINDIR lib=$DESTDIR$LIBDIR include=$DESTDIR$INCLUDEDIR man=$DESTDIR$MANDIR/man1
bash=$DESTDIR$DATADIR/bash-completion/completions/deepseek
zsh=$DESTDIR$DATADIR/zsh/site-functions/_deepseek
fish=$DESTDIR$DATADIR/fish/vendor_completions.d/deepseek.fish

if [ "${1:-}" = --remove ]; then
    rm -f "$bin/deepseek" "$lib/libdeepseek.a" "$lib/libdeepseek.so" "$lib/$SONAME" "$lib/$SONAME".* \
        "$include/deepseek.h" "$lib/pkgconfig/deepseek.pc" \
        "$man/deepseek.1" "$man"/deepseek-*.1 "$bash" "$zsh" "$fish"
    exit 0
fi

case $PROGRAM in */*) ;; *) PROGRAM=./$PROGRAM ;; esac
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
trap 'exit 1' HUP INT TERM

install -D -m 755 "$PROGRAM" "$bin/deepseek"
install -D -m 644 "$STATIC" "$lib/libdeepseek.a"
install -D -m 755 "$SHARED" "$lib/libdeepseek.so.$VERSION"
ln -sf "libdeepseek.so.$VERSION" "$lib/$SONAME"
ln -sf "$SONAME" "$lib/libdeepseek.so"
install -D -m 644 include/deepseek.h "$include/deepseek.h"

# Folders below the prefix are written in terms of it, so that the file may be moved with it.
# In a .pc file a blank separates words unless it stands behind a backslash; quotes and # mean something too.
plain() { printf '%s\n' "$1" | sed 's/[ "'"'"'#\\]/\\&/g'; }
below() { case $1 in "$PREFIX"/*) echo "\${prefix}$(plain "${1#"$PREFIX"}")" ;; *) plain "$1" ;; esac; }
cat >"$T/deepseek.pc" <<END
prefix=$(plain "$PREFIX")
libdir=$(below "$LIBDIR")
includedir=$(below "$INCLUDEDIR")

Name: deepseek
Description: Trains and runs DeepSeek models
Version: $VERSION
Cflags: -I\${includedir}
Libs: -L\${libdir} -ldeepseek
Libs.private: -ljansson -lxxhash -lm -pthread
END
install -D -m 644 "$T/deepseek.pc" "$lib/pkgconfig/deepseek.pc"

"$PROGRAM" --help=man >"$T/page"
install -D -m 644 "$T/page" "$man/deepseek.1"
"$PROGRAM" --help=commands >"$T/commands"
while read -r command; do
    # shellcheck disable=SC2086  # a command may be two words
    "$PROGRAM" $command --help=man >"$T/page" </dev/null
    install -D -m 644 "$T/page" "$man/deepseek-$(echo "$command" | tr ' ' -).1"
done <"$T/commands"

"$PROGRAM" --help=bash >"$T/completion" && install -D -m 644 "$T/completion" "$bash"
"$PROGRAM" --help=zsh >"$T/completion" && install -D -m 644 "$T/completion" "$zsh"
"$PROGRAM" --help=fish >"$T/completion" && install -D -m 644 "$T/completion" "$fish"
echo "installed deepseek $VERSION: $bin/deepseek, $lib/libdeepseek.{a,so}, $include/deepseek.h, $(wc -l <"$T/commands") + 1 manual pages, completion for bash, zsh and fish"
