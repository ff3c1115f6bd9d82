#!/bin/sh
# Trains both bundled models from nothing and measures them; run it again to go on after a stop.
#
#   sh examples/train_bundled.sh              # into runs/
#   OUT=/some/folder sh examples/train_bundled.sh --set workers=15 --set tokens_per_step=65536
#
# Everything worth keeping (weights, metrics, the table) lies in $OUT/bundled_*/ and $OUT/measured.md. What
# follows the script's name goes to every `jrt train`. About 6 hours on one CPU core.
set -eu
OUT=${OUT:-runs}
JRT=${JRT:-jrt}
PYTHON=${PYTHON:-python}
cd "$(dirname "$0")/.."
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
first="$OUT/bundled_first"
$JRT train examples/bundled_first.toml --output "$first" "$@"
for name in tiny causal; do
  $JRT train "examples/bundled_$name.toml" --output "$OUT/bundled_$name" --from "$first/best" "$@"
done
$JRT train examples/bundled_last.toml --output "$OUT/bundled_last" --from "$OUT/bundled_tiny/last" "$@"
set --
for rows in ../shared/data/fda510k/qa_eval.jsonl.gz ../shared/data/squad/eval.jsonl.gz; do
  if [ -f "$rows" ]; then set -- "$@" --rows "$rows"; fi
done
$PYTHON examples/measure_bundled.py --model "$OUT/bundled_last/last" --model "$OUT/bundled_causal/best" "$@" \
  >"$OUT/measured.md"
cat "$OUT/measured.md"
