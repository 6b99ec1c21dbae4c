"""Tables and two figures from all metrics files: python experiments/analyze.py

Writes summary.csv, summary_table.csv, cost_log.md, loss_by_bits.png, gradient_noise.png and
validation.json into results/. validation.json has the predicted and the observed gap to 16 bits by
bits and rank; `--no-theory` skips the predictions. Runs without a 16-bit run of the same settings,
rank and seed are listed.
"""

from original_plan.analysis import analyze
from original_plan.panels import loss_by_bits, noise_by_bits

if __name__ == "__main__":
    rows, _, results = analyze(__doc__)
    print(f"figure   {loss_by_bits(rows, results / 'loss_by_bits.png')}")
    print(f"figure   {noise_by_bits(rows, results / 'gradient_noise.png')}")
