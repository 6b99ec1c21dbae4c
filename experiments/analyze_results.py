"""Nine panels and the table of all runs: python experiments/analyze_results.py

Writes summary_table.csv and comprehensive_analysis.png into results/, with everything that
analyze.py writes as tables.
"""

from original_plan.analysis import analysed
from original_plan.panels import nine

if __name__ == "__main__":
    rows, predicted, results = analysed(__doc__)
    print(f"figure   {nine(rows, predicted, results / 'comprehensive_analysis.png')}")
