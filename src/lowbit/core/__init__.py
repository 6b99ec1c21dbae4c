"""What every other package stands on: words, errors, files, statistics. No torch.

array_store   named arrays in one file, computed once and kept
cache         where computed files are kept
errors        errors for the person, with the nearest valid name
execution     how a run is carried out: device, threads, residency
files         atomic writes, digests, JSON lines
paired_tests  exact and bootstrap tests over paired runs
plugins       a folder's modules, found by what they define
progress      progress bars and phase lines
schedules     what moves during training: ranks, ternary warm-up, distillation
spec          the words of a run: Plan, RunSpec, TaskSpec, TrainSpec, Site, Choice
stats         means, intervals and paired gaps
toml          TOML files and --set overrides, with line numbers in errors
"""
