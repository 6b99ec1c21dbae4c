"""Layers that store a weight matrix in few bits and train adapters next to it.

adapters   low-rank adapters and their initial values
autograd   products of frozen and adapted layers, with hand-written backward passes
frozen     a stored matrix as a module
install    replaces a model's layers by those of a plan
linear     linear layers: adapted, and trained in full precision
matmul     chooses the CPU library for products
operands   a frozen matrix ready to multiply: dense, or int8 with int8 activations
ternary/   layers trained towards three values
"""
