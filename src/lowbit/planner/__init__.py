"""Chooses a format and a rank for every site under a byte budget.

budget            the bytes that are left for sites under the stored and the training budget
budget_plan       the chosen plan, its competitors and its predictions
controls          simpler plans of the same size, for comparison
frontier_summary  what a little more or less budget buys, and the bytes saved
knapsack          the integer program: one option per site within the byte limits
options           the options of every site, with predicted cost and bytes
other_quantizers  a plan's bits as config files for GPTQModel, AutoRound and HQQ
plan_for_budget   a plan under a byte budget, for a model and task given by name
planner           from a request to a solved plan
remeasure         runs a solution, corrects its costs and solves again
request           what the user asks the planner for
search            the exact plan under a budget, and the frontier of all budgets
"""
