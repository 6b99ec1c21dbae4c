#!/bin/sh
# Makes the plans that the study compares, from calibration text alone: twenty minutes on two cores. Run it from the
# project's folder. The plans are committed, each with the output of `lowbit plan` in said.txt. A folder with a said.txt
# is complete and is skipped.
set -eu
plans=studies/planner/plans
head=${TMPDIR:-/tmp}/lowbit-planner # a short 16-bit run, seed 100, which trains the classifier's head

plan() { # MODEL TASK LIMIT BATCH FOLDER BUDGET [OPTIONS]
    model=$1 task=$2 limit=$3 batch=$4 folder=$plans/$5 budget=$6
    shift 6
    if [ -e "$folder/said.txt" ]; then return 0; fi
    mkdir -p "$folder"
    lowbit plan "$model" --task "$task" --budget "$budget" --tokens 8192 --to "$folder/returned.toml" \
        --set task.window=256 --set task.limit="$limit" --set train.batch="$batch" --set train.compute=fp32 \
        --format int8@64 --format int8@row --format int6@64 --format int5@64 --format int4@64 --format nf4@64 \
        --format nf4@64+dq --format int3@64 --format int2@64 --format ternary@64 "$@" > "$folder/unfinished.txt"
    rm "$folder"/returned-frontier.*
    mv "$folder/unfinished.txt" "$folder/said.txt"
    cat "$folder/said.txt"
}

lm() { plan assets:lm-14m wikitext2 782 4 "$@"; }
sst() { plan assets:minilm sst2 2000 8 "$@" --at "$head/$run"; }

# Plans to train choose bits and ranks. Plans that are scored without training (-bare) have one rank, so that their bases
# have the same bytes. The budgets are the bytes of uniform int3@64, int4@64 and int5@64 at rank 8, with the embedding in
# the same format.
lm lm3 7001856 --controls $plans/lm3 --draws 3
lm lm4 8722176 --controls $plans/lm4 --draws 3
lm lm3-bare 7001856 --rank 8 --untrained --controls $plans/lm3-bare --draws 20
lm lm4-bare 8722176 --rank 8 --untrained --controls $plans/lm4-bare --draws 20
lm lm5-bare 10442496 --rank 8 --untrained --controls $plans/lm5-bare --draws 20
# The budgets are the median stored bytes of Joint-1, 2 and 3 in the joint study, over its six seeds.
lm lm-joint-1 7939132
lm lm-joint-2 11203280
lm lm-joint-3 10296364

lowbit adapt assets:minilm --task sst2 --plan bf16 --seed 100 --out "$head" \
    --set task.window=256 --set task.limit=2000 --set train.epochs=2 --set train.batch=8 --set train.lr=5e-4 \
    --set train.compute=fp32
run=$(cd "$head" && ls -d minilm-sst2-*)
sst sst3 10607000 --controls $plans/sst3 --draws 3
sst sst4 13442264 --controls $plans/sst4 --draws 3
sst sst3-bare 10607000 --rank 8 --untrained --controls $plans/sst3-bare --draws 20
sst sst4-bare 13442264 --rank 8 --untrained --controls $plans/sst4-bare --draws 20
sst sst5-bare 16277528 --rank 8 --untrained --controls $plans/sst5-bare --draws 20
sst sst-joint-1 12418020
sst sst-joint-2 20057920
sst sst-joint-3 14859732
