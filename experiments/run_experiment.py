"""One fine-tune: python experiments/run_experiment.py --bits 16 --rank 16 --seed 0

Writes results/metrics_{bits}_r{rank}_{seed}.json. `--set KEY=VALUE` as for `lowbit adapt`.
Runs of other settings are kept beside it, with a fingerprint at the end of their file's name.
"""

from original_plan.arguments import arguments, carry_out

if __name__ == "__main__":
    asked, results = arguments(__doc__, rank=True)
    carry_out(asked, results, f"metrics_{asked.bits}_r{asked.rank}_{asked.seed}")
