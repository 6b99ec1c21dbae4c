"""Exports a trained model to the formats of other tools.

merge         base and adapter merged into one ordinary model
peft          adapters in PEFT's format
ternary       packed ternary weights
"""
