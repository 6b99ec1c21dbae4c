"""Metrics files from a study's records: python experiments/collect.py studies/bounds

Writes results/metrics_{bits}_r{rank}_{seed}.json for every run in one format and one rank, and the
study's own predictions, so that analyze.py and analyze_results.py train and predict nothing.
"""

import sys
from pathlib import Path

from original_plan.arguments import parser
from original_plan.fine_tune import TASK
from original_plan.from_records import collect

from lowbit.core.errors import LowbitError
from lowbit.study.study import read_study

if __name__ == "__main__":
    words = parser(__doc__)
    words.add_argument("study", type=Path)
    words.add_argument("--task", default=TASK)
    said = words.parse_args()
    try:
        made = collect(read_study(str(said.study)), said.results, said.task)
    except LowbitError as error:
        sys.exit(f"error: {error}")
    print(f"metrics  {said.results}: {len(made)} runs")
