#!/usr/bin/env bash
# Everything that wants a GPU, in under nine minutes: the tests marked `gpu`, what the card can do and where ours stands
# against it, and the same problems on the card and on the processor beside it. Straight from the checkout and offline:
# all that is needed is a Python with jax, its CUDA packages and pytest. Peers that are not installed are named.
#
#   benchmarks/gpu.sh                       PYTHON=python3.12, SECONDS_IN_ALL=540
#   OUT=/somewhere benchmarks/gpu.sh        a copy of the result goes there
#
# Without a GPU it is a rehearsal on the processor with tiny problems, whose figures mean nothing.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
PYTHON=${PYTHON:-python3}
SECONDS_IN_ALL=${SECONDS_IN_ALL:-540}
FOR_THE_REPORT=60 # and for what is under way when the time is up
FOR_THE_TESTS=150

if ! "$PYTHON" -c 'import jax, pytest' 2>/dev/null; then
    echo "$PYTHON has no jax or no pytest. Set PYTHON=/path/to/a/python that has both." >&2
    exit 2
fi
rehearsal=
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null
if "$PYTHON" -c 'import jax; jax.devices("gpu")' 2>/dev/null; then
    suite=(--devices gpu cpu --dtypes float32 --repeats 3)
    suite+=(--contenders jaxgmm scikit-learn scikit-learn-torch gmmx tgmm torchgmm)
    suite+=(--problems full_200k_16_16 diag_500k_8_32 full_50k_64_32)
else
    rehearsal="JAX sees no GPU here: a rehearsal on the CPU, whose figures mean nothing."
    echo "$rehearsal"
    suite=(--quick --devices cpu)
fi

echo "== tests"
timeout --signal=INT --kill-after=15 "$FOR_THE_TESTS" env JAXGMM_TEST_FLAGS=default "$PYTHON" -m pytest --tb=short -m gpu -p no:cacheprovider -p no:xdist -rs tests/test_gpu.py
tests=$?

minutes=$("$PYTHON" -c "print(max(0.5, ($SECONDS_IN_ALL - $SECONDS - $FOR_THE_REPORT) / 60))")
before=$(ls benchmarks/results)
"$PYTHON" -m benchmarks "${suite[@]}" --sections limits card iteration --minutes "$minutes"
measured=$?
result=$(comm -13 <(echo "$before") <(ls benchmarks/results) | tail -n 1)
if [ -n "${OUT:-}" ]; then
    mkdir -p "$OUT" && cp "benchmarks/results/$result" "$OUT/" || measured=1
fi

[ -n "$rehearsal" ] && echo "$rehearsal"
"$PYTHON" -m benchmarks.report --short "benchmarks/results/$result"
echo "tests: exit status $tests; measurements: exit status $measured; $SECONDS s in all"
[ "$tests" -eq 0 ] && [ "$measured" -eq 0 ]
