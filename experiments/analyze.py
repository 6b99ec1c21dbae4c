"""Tables and two figures from all metrics files: python experiments/analyze.py

Writes summary.csv, cost_log.md, loss_by_bits.png and gradient_noise.png into results/, and
validation.json: the gap predicted from calibration text (`--no-theory`: not) beside the observed,
by bits and rank. Runs without a 16-bit run of the same settings, rank and seed are named.
"""

from original_plan.analysis import analysed
from original_plan.panels import loss_by_bits, noise_by_bits

if __name__ == "__main__":
    rows, _, results = analysed(__doc__)
    print(f"figure   {loss_by_bits(rows, results / 'loss_by_bits.png')}")
    print(f"figure   {noise_by_bits(rows, results / 'gradient_noise.png')}")
