#!/bin/sh
# The plans that the study holds against each other, from calibration text alone: about three quarters of an hour
# on two cores. They are committed; run this from the project's folder to make them again.
set -eu
plans=studies/planner/plans
head=${TMPDIR:-/tmp}/lowbit-planner # where a classifier's head comes from: a short run in 16 bits, seed 100

plan() { # MODEL TASK LIMIT BATCH FOLDER BUDGET [OPTIONS]
    model=$1 task=$2 limit=$3 batch=$4 folder=$plans/$5 budget=$6
    shift 6
    lowbit plan "$model" --task "$task" --budget "$budget" --tokens 8192 --to "$folder/returned.toml" \
        --set task.window=256 --set task.limit="$limit" --set train.batch="$batch" "$@"
    rm "$folder"/returned-frontier.*
}

lm() { plan assets:lm-14m wikitext2 782 4 "$@"; }
sst() { plan assets:minilm sst2 2000 8 "$@" --at "$head/$run"; }

# Uniform int3@64, int4@64 and int5@64 at rank 8, the embedding alike.
lm lm3 7001856 --controls $plans/lm3 --draws 20
lm lm4 8722176 --controls $plans/lm4 --draws 20
lm lm5 10442496 --controls $plans/lm5 --draws 20
# The median of what Joint-1, 2 and 3 stored in the joint study, over its six seeds.
lm lm-joint-1 7939132
lm lm-joint-2 11203280
lm lm-joint-3 10296364

lowbit adapt assets:minilm --task sst2 --plan bf16 --seed 100 --out "$head" \
    --set task.window=256 --set task.limit=2000 --set train.epochs=2 --set train.batch=8 --set train.lr=5e-4 \
    --set train.compute=fp32
run=$(cd "$head" && ls -d minilm-sst2-*)
sst sst3 10607000 --controls $plans/sst3 --draws 20
sst sst4 13442264 --controls $plans/sst4 --draws 20
sst sst5 16277528 --controls $plans/sst5 --draws 20
sst sst-joint-1 12418020
sst sst-joint-2 20057920
sst sst-joint-3 14859732
