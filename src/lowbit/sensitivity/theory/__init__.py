"""The theory of what low precision costs, as numbered equations: pure functions. No torch.

The planner and `lowbit guide` use `damage`. The other modules are a library of formulas for the
papers and notebooks; no command uses them. Every number refers to `equations` and to theory.pdf.

damage      from an error of the weights to nats
distortion  the mean squared error of a format on Gaussian weights
equations   the equations as LaTeX
rounding    the error of rounding one weight
"""
