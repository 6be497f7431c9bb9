#!/bin/sh
# Installs the packages that building and testing need where they are missing; silent when nothing is. Never asks
# anything.
set -u
cd "$(dirname "$0")/.." || exit 1

missing=$(tools/check-packages.sh --list)
[ -z "$missing" ] && exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "Missing packages: $missing" >&2
    echo "(These are their names in Debian. Install what your system calls them, then try again.)" >&2
    exit 1
fi

as_root=
if [ "$(id -u)" -ne 0 ]; then
    as_root="sudo -n"
    if ! sudo -n true </dev/null 2>/dev/null; then
        echo "Missing packages: $missing" >&2
        echo "They cannot be installed from here, because sudo would ask for a password. Run: sudo apt-get install $missing" >&2
        exit 1
    fi
fi

echo "Installing missing packages with ${as_root:+$as_root }apt-get: $missing"
# shellcheck disable=SC2086  # both variables are lists of words
$as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q </dev/null &&
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing </dev/null || {
    echo "apt-get could not install: $missing" >&2
    exit 1
}
left=$(tools/check-packages.sh --list)
if [ -n "$left" ]; then
    echo "Still missing after the installation: $left" >&2
    exit 1
fi
