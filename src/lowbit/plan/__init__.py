"""What a plan declares: a format and a rank for every site. No torch.

file   a plan's TOML file, read and written
named  plans that have names
rules  a plan's rules applied to a model's sites
"""
