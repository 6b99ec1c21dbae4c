"""Layers that store a weight matrix in few bits and train around it.

adapters   low-rank adapters and where they start
autograd   the frozen and the adapted product, with their backward passes
frozen     a stored matrix as a module
install    puts a plan's layers in the place of a model's own
linear     the adapted linear layer, and the trained one
matmul     which CPU kernel multiplies
ternary/   three-valued layers that are trained
"""
