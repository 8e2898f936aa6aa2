#!/bin/bash
# `make sanitize`: builds ext/ with the address and undefined-behaviour sanitizers of gcc in build/sanitize, and runs the
# tests there, all of them or those given: `tests/sanitize.sh tests/ext`. A report of a sanitizer ends the process that
# it is about, and so the test. Leaks are not looked for: Python keeps what it has until it ends.
set -eu
cd "$(dirname "$0")/.."
root=$PWD
address=$(gcc -print-file-name=libasan.so)
if [ ! -f "$address" ]; then
    echo "make sanitize: gcc has no libasan here: apt-get install gcc (it brings libasan)" >&2
    exit 1
fi
mkdir -p build/sanitize
git ls-files -z -co --exclude-standard | tar --null --files-from=- --ignore-failed-read -cf - | tar -xf - -C build/sanitize
if [ -d "$root/../shared" ]; then
    ln -sfn "$root/../shared" build/shared
fi
cd build/sanitize
GONETS_SANITIZE=address,undefined "$root/.venv/bin/python" setup.py -q build_ext --inplace
# LD_PRELOAD is what children inherit too; a shim of the tests goes in front of it. Its reports go to files, because
# tests read what servers say; those of undefined behaviour ignore that, hence --capture=sys: the tests' own process
# says them here.
rm -f reports.*
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:verify_asan_link_order=0:log_path=$PWD/reports
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1:log_path=$PWD/reports
export PYTHONPATH=$PWD PYTHONDONTWRITEBYTECODE=1
status=0
env LD_PRELOAD="$address" "$root/.venv/bin/python" -m pytest -p no:cacheprovider --capture=sys --timeout=600 "${@:-tests}" || status=$?
for report in reports.*; do
    [ -f "$report" ] || continue
    echo "make sanitize: $report:" >&2
    head -30 "$report" >&2
    status=1
done
exit $status
