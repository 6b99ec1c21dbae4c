"""One fine-tune at rank 16: python experiments/run_ft.py --bits {16,8,4} --seed S

Writes results/metrics_{bits}_{seed}.json. `--set KEY=VALUE` as for `lowbit adapt`.
Runs of other settings are kept beside it, with a fingerprint at the end of their file's name.
"""

from original_plan.arguments import arguments, carry_out

if __name__ == "__main__":
    asked, results = arguments(__doc__, rank=False)
    carry_out(asked, results, f"metrics_{asked.bits}_{asked.seed}")
