#!/usr/bin/env bash
# Checks and times this project on the GPU of this machine, beside PyTorch, and writes OUT/results.md. Needs neither the
# package installed nor Git nor a C compiler, and fetches nothing.
#
#     benchmarks/gpu.sh          # needs jax, flax, optax, orbax-checkpoint, grain, ... and torch: it names what is missing
#     DEADLINE=540 benchmarks/gpu.sh                       # ends after so many seconds; the next call goes on
#     benchmarks/gpu.sh --table                            # the page of what there is
#     PYTHON=python3 TORCH=python3 WHEELS=folder OUT=gpu BATCHES="128 1024" MORE="256 512" TURNS=3 STEPS=20 benchmarks/gpu.sh
#
# Each process adds a line to OUT/rows.jsonl, the most telling first; what is there is not run again. Status 75 says that
# something is left. TORCH= leaves PyTorch out. What is missing is installed from WHEELS, a folder of wheels, into OUT.
# Without a GPU it runs all the same, as a rehearsal: BATCHES=4 MORE= TURNS=1 STEPS=1 benchmarks/gpu.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3} OUT=${OUT:-gpu}
TORCH=${TORCH-$PYTHON}
mkdir -p "$OUT/site"
SITE=$(cd "$OUT/site" && pwd)
export PYTHONPATH="$SITE${PYTHONPATH:+:$PYTHONPATH}"
missing=$("$PYTHON" -c 'import sys; from importlib.util import find_spec; print(*(n for n in sys.argv[1:] if not find_spec(n)))' \
  jax flax optax orbax grain ml_collections absl array_record simplejpeg cv2 sklearn tqdm xxhash)
if [ -n "$missing" ] && [ -n "${WHEELS:-}" ]; then
  "$PYTHON" -m pip install --quiet --no-index --find-links "$WHEELS" --no-deps --target "$SITE" "$WHEELS"/*.whl
elif [ -n "$missing" ]; then
  echo "error: $PYTHON lacks $missing: install them, or name a folder of their wheels as WHEELS." >&2
  exit 1
fi
# shellcheck disable=SC2086  # the batches are words
exec "$PYTHON" benchmarks/step.py --all --out="$OUT" --batches ${BATCHES:-128 1024} --more ${MORE-256 512 2048 4096} \
  --turns="${TURNS:-3}" --steps="${STEPS:-20}" ${TORCH:+--torch="$TORCH"} ${DEADLINE:+--deadline=$((DEADLINE - SECONDS))} "$@"
