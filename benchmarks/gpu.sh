#!/usr/bin/env bash
# Checks and times this project on the GPU of this machine, beside PyTorch, and writes a page of tables.
#
#     benchmarks/gpu.sh                  # needs jax, flax, optax, orbax-checkpoint, grain and torch; fetches nothing
#     PYTHON=python3 TORCH=python3 WHEELS=folder OUT=gpu BATCHES="128 512 2048" TURNS=5 STEPS=20 benchmarks/gpu.sh
#
# TORCH= leaves PyTorch out. What is missing is installed from WHEELS, a folder of wheels, into OUT. Without a GPU it
# runs all the same, as a rehearsal: BATCHES=4 TURNS=1 STEPS=1 benchmarks/gpu.sh takes a few minutes on a CPU.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3} OUT=${OUT:-gpu} BATCHES=${BATCHES:-128 256 512 1024 2048 4096} TURNS=${TURNS:-5} STEPS=${STEPS:-20}
TORCH=${TORCH-$PYTHON}
mkdir -p "$OUT/site"
rm -rf "$OUT/site/alexnet_jax"
cp -r alexnet_jax "$OUT/site/" # as a wheel has it
cp -r configs "$OUT/site/alexnet_jax/configs"
cp -r tools "$OUT/site/"
SITE=$(cd "$OUT/site" && pwd)
export PYTHONPATH="$SITE${PYTHONPATH:+:$PYTHONPATH}" JAX_COMPILATION_CACHE_DIR="$OUT/cache"

missing=$("$PYTHON" - <<'END'
import importlib.util
wanted = "jax flax optax orbax.checkpoint grain ml_collections absl array_record simplejpeg cv2 sklearn tqdm xxhash"


def there(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


print(*(name for name in wanted.split() if not there(name)))
END
)
if [ -n "$missing" ] && [ -n "${WHEELS:-}" ]; then
  "$PYTHON" -m pip install --quiet --no-index --find-links "$WHEELS" --no-deps --target "$SITE" "$WHEELS"/*.whl
elif [ -n "$missing" ]; then
  echo "error: $PYTHON lacks $missing: install them, or name a folder of their wheels as WHEELS." >&2
  exit 1
fi

page="$OUT/results.md"
{
  echo "# On this machine, $(date -u +%Y-%m-%d)"
  echo
  nvidia-smi --query-gpu=name,driver_version,memory.total,power.limit --format=csv,noheader 2>/dev/null || echo "no GPU: a rehearsal"
  "$PYTHON" -c 'import jax; print("jax", jax.__version__, [d.device_kind for d in jax.devices()])'
  [ -z "$TORCH" ] || "$TORCH" -c 'import torch; print("torch", torch.__version__, "CUDA", torch.version.cuda)'
} | tee "$page"
echo -e "\n## Numbers\n" | tee -a "$page"
first=${BATCHES%% *}
"$PYTHON" benchmarks/device.py --batch="$((first < 32 ? first : 32))" | tee -a "$page"
for batch in $BATCHES; do
  echo -e "\n## Batch $batch\n" | tee -a "$page"
  "$PYTHON" benchmarks/step.py --batch="$batch" --turns="$TURNS" --steps="$STEPS" ${TORCH:+--torch="$TORCH"} \
    --json="$OUT/step-$batch.json" | tee -a "$page" || echo "batch $batch did not run to its end" | tee -a "$page"
done
echo -e "\n## The feed beside the step\n" | tee -a "$page"
"$PYTHON" -P -m tools.bench_input --config=alexnet:synthetic --config.train.batch_size="$first" | tee -a "$page"
echo -e "\nwritten: $page"
