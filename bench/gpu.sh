#!/usr/bin/env bash
# Everything that needs a GPU, in 13 minutes on one, the most valuable first: the kernels' tests compiled, all benches, the
# kernels under compute-sanitizer. Prints a table last, writes logs and one JSON file into a folder (build/gpu-results),
# and fails where a part fails (bench/gpu.py names the parts).
#
#   bash bench/gpu.sh [FOLDER]                     on a box with a GPU
#   bash bench/gpu.sh --rehearse [FOLDER]          small sizes without a GPU, under Triton's interpreter
#   bash bench/gpu.sh --only build fold -- FOLDER  some parts
#
# Needs a Python with torch, triton, transformers, numpy, pytest and pybind11, and a C++20 compiler; installs nothing:
# the package is built into build/gpu. PYTHON and CXX name another interpreter and compiler.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHON=${PYTHON:-python3}
site=$PWD/build/gpu

build() {
    rm -rf "$site"
    mkdir -p "$site"
    cp -r learnalign bench "$site"
    rm -f "$site"/learnalign/_core*.so
    cp -r kernels "$site/learnalign/kernels"
    local suffix includes
    suffix=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
    includes=$("$PYTHON" -c 'import pybind11, sysconfig; print("-I" + pybind11.get_include(), "-I" + sysconfig.get_path("include"))')
    local compiling=()
    for source in csrc/[!t]*/*.cpp; do
        # shellcheck disable=SC2086
        "${CXX:-c++}" -O3 -std=c++20 -fPIC -ffp-contract=off -pthread -Icsrc $includes -c "$source" \
            -o "$site/$(basename "$source").o" &
        compiling+=($!)
    done
    for process in "${compiling[@]}"; do wait "$process"; done
    "${CXX:-c++}" -shared -pthread "$site"/*.o -o "$site/learnalign/_core$suffix"
}

if [ "${1:-}" = --build ]; then
    build
else
    # A safe path, here and in every child: bench/ holds a select.py, and learnalign/ here has no extension.
    PYTHONSAFEPATH=1 PYTHONPATH=$site exec "$PYTHON" bench/gpu.py "$@"
fi
