#!/usr/bin/env bash
# Everything that needs a GPU, in under 10 minutes on one: the kernels' tests compiled, then the benches of the engine.
#
#   bash bench/gpu.sh [RESULT.json]         on a box with a GPU, from the root of the repository
#   bash bench/gpu.sh --rehearse            small sizes without a GPU, under Triton's interpreter
#
# Needs a Python with torch, triton, transformers, numpy, pytest and pybind11, and a C++20 compiler; installs nothing:
# the package is built into build/gpu. PYTHON names another interpreter. Writes one JSON object a bench, as a list.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
quick=()
result=gpu.json
if [ "${1:-}" = --rehearse ]; then quick=(--quick); shift; fi
result=${1:-$result}

site=$PWD/build/gpu
rm -rf "$site"
mkdir -p "$site"
cp -r learnalign bench "$site"
rm -f "$site"/learnalign/_core*.so
cp -r kernels "$site/learnalign/kernels"
suffix=$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
includes=$("$python" -c 'import pybind11, sysconfig; print("-I" + pybind11.get_include(), "-I" + sysconfig.get_path("include"))')
for source in csrc/*.cpp; do
    # shellcheck disable=SC2086
    c++ -O3 -std=c++20 -fPIC -ffp-contract=off -pthread -Icsrc $includes -c "$source" -o "$site/$(basename "$source").o" &
done
wait
c++ -shared -pthread "$site"/*.o -o "$site/learnalign/_core$suffix"
export PYTHONPATH=$site

"$python" -c 'import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU: interpreted")'
if [ ${#quick[@]} = 0 ]; then
    "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available() and "bench/gpu.sh: no GPU here; --rehearse")'
fi
"$python" -P -m pytest -q tests/test_fold_kernels.py tests/test_logprob.py tests/test_devices.py

log=$site/benches.log
: >"$log"
bench() {
    printf '\n== bench.%s\n' "$*"
    "$python" -P -m "bench.$1" "${@:2}" "${quick[@]}" | tee "$site/last.log"
    tail -n 1 "$site/last.log" >>"$log"
}
bench fold
bench head
if [ ${#quick[@]} = 0 ]; then
    bench sketch --shape qwen2.5-1.5b
    bench sketch --shape qwen2.5-1.5b --groups 8 --response-tokens 300 300 --skip-less
    bench sketch --shape qwen2.5-0.5b --groups 4 --response-tokens 1024 1024 --skip-less
else
    bench sketch --shape smollm2-135m --skip-less
fi
"$python" - "$log" "$result" <<'PYTHON'
import json, sys
rows = [json.loads(line) for line in open(sys.argv[1])]
with open(sys.argv[2], "w") as file:
    json.dump(rows, file, indent=1)
for row in rows:
    print(row["bench"], row.get("shape", ""), "bars met:", row.get("bars_met"))
print("written:", sys.argv[2])
PYTHON
