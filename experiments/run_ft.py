"""One fine-tune at rank 16: python experiments/run_ft.py --bits {16,8,4} --seed S

Writes results/metrics_{bits}_{seed}.json. `--set KEY=VALUE` as for `lowbit adapt`.
If that file has metrics of a run with other settings, it stays, and the new file's name ends in the
run's fingerprint.
"""

from original_plan.arguments import fine_tune_or_exit, parse_request

if __name__ == "__main__":
    request, results = parse_request(__doc__, with_rank=False)
    fine_tune_or_exit(request, results, f"metrics_{request.bits}_{request.seed}")
