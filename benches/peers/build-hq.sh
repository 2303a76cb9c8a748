#!/usr/bin/env bash
# Builds HyperQueue from its public source with the project's own release profile
# (`dist`: LTO, one codegen unit) and its default features less `dashboard`
# (a terminal UI that plays no part in the benches).
#
# The default scheduler solver is HiGHS, a C++ library: its build wants cmake and libclang.
# Both come from the Python venv next to this script (pip install cmake libclang).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
gcc_include=$(echo /usr/lib/gcc/x86_64-linux-gnu/*/include | awk '{print $1}')
export PATH="$here/venv/bin:$PATH"
export LIBCLANG_PATH="$here/venv/lib/python3.11/site-packages/clang/native"
# The libclang wheel has no builtin headers (stddef.h, ...): lend it gcc's.
export BINDGEN_EXTRA_CLANG_ARGS="-I$gcc_include"
export CARGO_TARGET_DIR="$here/target"
cd "$here/hq-src"
exec nice -n 10 cargo build --locked --profile dist -p hyperqueue --bin hq \
    --no-default-features --features jemalloc,highs
