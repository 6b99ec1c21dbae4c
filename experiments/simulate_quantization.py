"""The noise model compared with random numbers: python experiments/simulate_quantization.py

Writes results/simulation_results.json and results/theoretical_validation.png.
"""

from original_plan.arguments import parser
from original_plan.panels import theory_panels
from original_plan.simulation import simulate

from lowbit.core.files import to_json, write_atomic

if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--seed", type=int, default=0)
    arguments = options.parse_args()
    simulation = simulate(arguments.seed)
    write_atomic(
        arguments.results / "simulation_results.json", (to_json(simulation) + "\n").encode()
    )
    print(f"results  {arguments.results / 'simulation_results.json'}")
    print(f"figure   {theory_panels(simulation, arguments.results / 'theoretical_validation.png')}")
