"""The noise model against random numbers: python experiments/simulate_quantization.py

Writes results/simulation_results.json and results/theoretical_validation.png.
"""

from original_plan.arguments import parser
from original_plan.panels import theory
from original_plan.simulation import simulate

from lowbit.core.files import to_json, write_atomic

if __name__ == "__main__":
    words = parser(__doc__)
    words.add_argument("--seed", type=int, default=0)
    said = words.parse_args()
    found = simulate(said.seed)
    write_atomic(said.results / "simulation_results.json", (to_json(found) + "\n").encode())
    print(f"results  {said.results / 'simulation_results.json'}")
    print(f"figure   {theory(found, said.results / 'theoretical_validation.png')}")
