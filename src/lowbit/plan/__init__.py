"""Plans: a storage format and an adapter rank for every site. No torch.

file   plans as TOML files: `load_plan` and `to_toml`
named  the built-in plans
rules  a plan's rules, applied to a model's sites
"""
