"""Layers that store a weight matrix in few bits and train adapters next to it.

adapters   low-rank adapters and their initial values
autograd   the frozen and the adapted product, with hand-written backward passes
frozen     a stored matrix as a module
install    replaces a model's layers by the plan's
linear     the adapted linear layer, and the one trained in full precision
matmul     which CPU library computes a product
ternary/   layers trained towards three values
"""
