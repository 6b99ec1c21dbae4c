"""Nine panels and the table of all runs: python experiments/analyze_results.py

Writes comprehensive_analysis.png into results/, and the same tables as analyze.py.
"""

from original_plan.analysis import analyze
from original_plan.panels import nine_panels

if __name__ == "__main__":
    rows, predicted, results = analyze(__doc__)
    print(f"figure   {nine_panels(rows, predicted, results / 'comprehensive_analysis.png')}")
