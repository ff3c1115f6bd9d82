#!/bin/bash
# Everything that needs a GPU, on one: the kernels' contract on the device, the reference cases in fp32 and bf16,
# CUDA graphs, `--device cuda` of the commands, and `jrt bench prefill`. One table at the end; 0 if all passed.
#
#   bash examples/gpu_check.sh [FOLDER]
#
# FOLDER takes the logs (default: a new one under /tmp). PYTHON names the interpreter (default: python3), which
# needs the packages of jrt[gpu] and pytest; pytest-xdist shortens the tests. It takes less than eight minutes.
set -u
cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-python3}
out=${1:-$(mktemp -d)}
mkdir -p "$out"
export PYTHONPATH=.:kernels:prompts${PYTHONPATH:+:$PYTHONPATH}

if ! "$python" -c 'import torch; raise SystemExit(not torch.cuda.is_available())' 2>/dev/null; then
    echo "this machine has no GPU that $python's torch can use: nothing was checked" >&2
    exit 2
fi

jobs=()
if "$python" -c 'import xdist' 2>/dev/null; then
    jobs=(-n 8) # the time goes into compiling kernels, on the CPU
fi
table=()
failed=0

check() { # check SECONDS NAME COMMAND...
    local limit=$1 name=$2 start=$SECONDS status log last
    shift 2
    log=$out/${name// /_}.log
    echo "== $name: $*"
    timeout "$limit" "$@" >"$log" 2>&1
    status=$?
    tail -n 40 "$log"
    last=$(grep -v '^[[:space:]]*$' "$log" | tail -n 1 | cut -c1-70)
    if [ $status -eq 0 ]; then
        last="ok      $last"
    elif [ $status -eq 124 ]; then
        last="TIME    not done after $limit s"
        failed=1
    else
        last="FAILED  $last"
        failed=1
    fi
    table+=("$(printf '%-26s %5d s  %s' "$name" $((SECONDS - start)) "$last")")
}

tests() { # tests SECONDS NAME ARGUMENTS...
    local limit=$1 name=$2
    shift 2
    check "$limit" "$name" "$python" -m pytest -q "${jobs[@]}" "$@"
}

check 30 "machine" "$python" -m jrtcli doctor
tests 150 "kernels against naive" tests/kernels -k "triton or fla or mamba_ssm or gpu"
tests 60 "reference cases" tests/models/test_gpu_goldens.py
tests 40 "CUDA graphs" tests/test_decoding.py -m gpu
check 40 "laws on the device" "$python" -m jrtcli doctor --model tests/golden/jrt-rnn --device cuda --dtype float32
check 40 "jrt ask" "$python" -m jrtcli ask --device cuda -Q "What is the name of the device?" --json -d examples/device_summary.txt
check 120 "jrt bench prefill" "$python" -m jrtcli bench prefill --repeat 10

echo
printf '%s\n' "${table[@]}"
echo
echo "The measured table:"
cat "$out/jrt_bench_prefill.log"
echo "logs: $out"
exit $failed
