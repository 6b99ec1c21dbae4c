"""What low precision costs, in numbered equations: pure functions of numbers. No torch.

damage      from an error of the weights to nats
distortion  what a format does to Gaussian weights
equations   the equations as LaTeX
rounding    what rounding does to one weight
"""
