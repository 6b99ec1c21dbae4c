"""Rounds a model's matrices with calibration text.

gradients       the gradients that errors are weighed with, cached
head            a language model's head, which may be tied to its embedding
moments         second moments of the inputs of matrices, and their text
round_model     all matrices of a model, block after block
rounded_sites   sites that are rounded so, and their cache
"""
