#!/bin/sh
# Cargo calls this instead of the compiler for the packages of the workspace: the trainer gets
# coverage for libFuzzer and checks of overflow, everything else is compiled as ever.
case " $* " in
*" --crate-name trainer "*)
    exec "$@" -C passes=sancov-module \
        -C llvm-args=-sanitizer-coverage-level=4 \
        -C llvm-args=-sanitizer-coverage-inline-8bit-counters \
        -C llvm-args=-sanitizer-coverage-pc-table \
        -C llvm-args=-sanitizer-coverage-trace-compares \
        -C codegen-units=1 -C debug-assertions -C overflow-checks
    ;;
*) exec "$@" ;;
esac
