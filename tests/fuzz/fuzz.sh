#!/bin/bash
# `make fuzz`: builds ext/ for clang's libFuzzer with the address and undefined-behaviour sanitizers in build/fuzz, then
# fuzzes each target for SECONDS_EACH (default 60), or those named in TARGETS. What is found grows in build/fuzz/found;
# KEEP=60 takes the 60 smallest of them for each target into tests/fuzz/corpus. A finding ends it and names the file with the input.
set -eu
cd "$(dirname "$0")/../.."
root=$PWD
clang=$(command -v clang || compgen -c clang- | grep -E '^clang-[0-9]+$' | sort -t- -k2 -n | tail -1 || true)
if [ -z "$clang" ]; then
    echo "make fuzz: no clang here: apt-get install clang, and its sanitizers (libclang-rt-dev, or libclang-rt-14-dev)" >&2
    exit 1
fi
library() { "$clang" -print-file-name="$1"; }
fuzzer=$(library "libclang_rt.fuzzer_no_main-$(uname -m).a")
address=$(library "libclang_rt.asan-$(uname -m).so")
for file in "$fuzzer" "$address"; do
    if [ ! -f "$file" ]; then
        echo "make fuzz: $clang has no ${file##*/}: apt-get install libclang-rt-dev (of its version: libclang-rt-14-dev)" >&2
        exit 1
    fi
done
if ! .venv/bin/python -c 'import atheris' 2>/dev/null; then
    echo "make fuzz: atheris is not there: it comes with x86-64 Linux and Python below 3.14; PYTHON= chooses another" >&2
    exit 1
fi

mkdir -p build/fuzz/found build/fuzz/crashes
git ls-files -z -co --exclude-standard | tar --null --files-from=- --ignore-failed-read -cf - | tar -xf - -C build/fuzz
cd build/fuzz
CC=$clang GONETS_SANITIZE=address,undefined,fuzzer-no-link "$root/.venv/bin/python" setup.py -q build_ext --inplace
# Before the address sanitizer, which has empty functions of the same names.
gcc -shared -o libfuzzer.so -Wl,--whole-archive "$fuzzer" -Wl,--no-whole-archive -lstdc++ -lpthread -ldl -lm

run() { # target, options
    env "LD_PRELOAD=$PWD/libfuzzer.so $address" \
        ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:verify_asan_link_order=0 \
        UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
        "$root/.venv/bin/python" -m tests.fuzz.run "$@"
}

for target in ${TARGETS:-frames handshake commands tokens proxied tls block record tree segment_header configuration session}; do
    found=found/$target corpus=$root/tests/fuzz/corpus/$target
    mkdir -p "$found" "$corpus"
    echo "fuzz: $target, ${SECONDS_EACH:-60} s"
    if ! run "$target" -max_total_time="${SECONDS_EACH:-60}" -print_final_stats=1 -artifact_prefix=crashes/"$target"- \
        "$found" "$corpus" >"crashes/$target.log" 2>&1; then
        tail -40 "crashes/$target.log" >&2
        echo "fuzz: $target: found; the input is in build/fuzz/crashes, all that was said in build/fuzz/crashes/$target.log" >&2
        exit 1
    fi
    grep -E 'stat::(number|average)' "crashes/$target.log"
    grep -E '(cov|ft): ' "crashes/$target.log" | tail -1
    if [ -n "${KEEP:-}" ]; then
        find "$found" -type f -size -3k -printf '%s %p\n' | sort -n | head -"$KEEP" | cut -d' ' -f2- | xargs -r cp -t "$corpus"
    fi
done
