"""Metrics files from a study's records: python experiments/collect.py studies/bounds

Writes results/metrics_{bits}_r{rank}_{seed}.json for every run that has one format and one rank in
all blocks, and the study's predictions as results/foreseen.json. Afterwards analyze.py and
analyze_results.py need neither training nor a model.
"""

import sys
from pathlib import Path

from original_plan.arguments import parser
from original_plan.fine_tune import TASK
from original_plan.from_records import collect

from lowbit import LowbitError, read_study

if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("study", type=Path, help="folder of the study")
    options.add_argument("--task", default=TASK, help="the task whose runs are collected")
    arguments = options.parse_args()
    try:
        paths = collect(read_study(arguments.study), arguments.results, arguments.task)
    except LowbitError as error:
        sys.exit(f"error: {error}")
    print(f"metrics  {arguments.results}: {len(paths)} runs")
