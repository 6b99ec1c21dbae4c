"""What low precision costs, in equations: pure functions of numbers, numbered as in the paper.

`noise`      what rounding does to one weight
`distortion` what a format does to Gaussian weights, by integration over its levels
`damage`     from weights to nats: mean, variance, where the first order takes over, bits, converse
`documents`  the formulas that this project started from, as they were written
`equations`  all of them as LaTeX; `prose` sets them into the derivation
"""
