"""The theory of what low precision costs, as numbered equations: pure functions. No torch.

The planner and `lowbit guide` use `damage`, `lowbit formats` uses `distortion`. The numbers in
docstrings refer to theory.pdf, which `experiments/export_theory.py` writes.

damage      from an error of the weights to nats
distortion  the mean squared error of a format on Gaussian weights
"""
