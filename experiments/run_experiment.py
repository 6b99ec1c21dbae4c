"""One fine-tune: python experiments/run_experiment.py --bits 16 --rank 16 --seed 0

Writes results/metrics_{bits}_r{rank}_{seed}.json. `--set KEY=VALUE` as for `lowbit adapt`.
If that file has metrics of a run with other settings, it stays, and the new file's name ends in the
run's fingerprint.
"""

from original_plan.arguments import fine_tune_or_exit, parse_request

if __name__ == "__main__":
    request, results = parse_request(__doc__, with_rank=True)
    fine_tune_or_exit(request, results, f"metrics_{request.bits}_r{request.rank}_{request.seed}")
