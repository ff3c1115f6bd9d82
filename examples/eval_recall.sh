#!/bin/sh
# Recall of both bundled models on five sets of questions, in every order of reading: one table, one report.
#
#   sh examples/eval_recall.sh FOLDER runs/recall [OPTION...]
#
# FOLDER has a file of rows {"id", "context", "question", "answers"} for each set: fda.jsonl (FDA 510(k)
# summaries), squad.jsonl, nq.jsonl, drop.jsonl, fairytaleqa.jsonl, or .jsonl.gz. Killed, the same command goes on.
# More options are those of `jrt eval`: --limit 100, --workers 4, --reads 1,2.
set -eu

data=$1
out=$2
shift 2

files=
for name in fda squad nq drop fairytaleqa; do
    for file in "$data/$name.jsonl" "$data/$name.jsonl.gz"; do
        if [ -f "$file" ]; then
            files="$files$file
"
        fi
    done
done
if [ -z "$files" ]; then
    echo "$data: none of fda, squad, nq, drop, fairytaleqa is here as .jsonl or .jsonl.gz" >&2
    exit 2
fi
IFS='
'
exec jrt eval $files --model tiny --model tiny-causal --template cq,qcq,cqcq,ccq,qccq --output "$out" "$@"
