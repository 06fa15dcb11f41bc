#!/bin/sh
# Builds the component: ./build.sh [OUT]. Wants a clang with the wasm32 target (CLANG), a linker for it (WASM_LD) and meshd
# (MESHD); takes what PATH has.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here/no-telnet.wasm}

first() {
    for name in "$@"; do
        if command -v "$name" >/dev/null 2>&1; then echo "$name"; return; fi
    done
}

clang=${CLANG:-$(first clang clang-19 clang-16 clang-14)}
[ -n "$clang" ] || { echo "no clang here: apt-get install clang" >&2; exit 1; }
ld=${WASM_LD:-$(first wasm-ld wasm-ld-19 wasm-ld-16 wasm-ld-14)}
if [ -z "$ld" ] && command -v rustc >/dev/null 2>&1; then
    rust=$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin/rust-lld
    [ ! -x "$rust" ] || ld="$rust -flavor wasm"
fi
[ -n "$ld" ] || { echo "no linker for WASM here: apt-get install lld" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$clang" --target=wasm32 -O2 -Wall -Wextra -Werror -ffreestanding -fno-builtin -mno-bulk-memory \
    -I "$here/../../sdk/c" -c "$here/no_telnet.c" -o "$work/no_telnet.o"
# $ld may hold two words.
$ld --no-entry --strip-debug -z stack-size=16384 "$work/no_telnet.o" -o "$work/module.wasm"
"${MESHD:-meshd}" plugin build "$work/module.wasm" --manifest "$here/manifest.json" --out "$out"
