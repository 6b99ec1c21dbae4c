"""Which format and rank every site should get under a byte budget.

budget            bytes that are left under the stored and the training budget
controls          plans to compare the chosen one with
knapsack          the exact solver
options           what a site may get, with predicted damage and bytes
other_quantizers  a plan's bits as other quantisers' configuration
planner           from a request to a solved plan
request           what is asked of the planner
search            candidate plans that are run and compared
"""
