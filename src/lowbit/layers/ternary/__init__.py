"""Linear layers that are trained towards three values.

grid     rounds groups of weights to {-1, 0, +1} times a scale
linear   the layer that blends full-precision and ternary weights while training
packing  packs the trained codes and scales
"""
