"""A finished run in the formats of others.

finished_run  exports a run's folder
merge         adapter and base as one plain model
peft          PEFT's adapter format
ternary       ternary weights, packed
"""
