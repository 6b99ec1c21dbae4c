"""Layers that are trained towards three values.

grid     groups of weights become {-1, 0, +1} times a scale
linear   the layer that blends full precision and grid, with straight-through gradients
packing  the codes and scales that were trained, packed
"""
