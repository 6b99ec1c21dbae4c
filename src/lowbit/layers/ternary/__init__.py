"""Training towards three values.

`grid`      what to quantise to: group, scale rule, threshold
`schedule`  how hard, as training goes on
`linear`    the layer that blends the two, with gradients straight through
`teacher`   what a full-precision teacher said, kept small, and losses against it
`store`     packed for good: the bits that were trained, and how many a weight
"""
