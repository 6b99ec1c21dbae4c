"""A trained model in the formats of others.

merge         adapter and base as one plain model
peft          PEFT's adapter format
ternary       ternary weights, packed
"""
