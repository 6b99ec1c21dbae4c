"""The base of all other packages: dataclasses of a run, errors, files, statistics. No torch.

array_store   named arrays in one checked file, computed once
byte_sizes    sizes like 12MB, read
cache         the folder of cached files
errors        error classes, and suggestions of the nearest valid name
execution     how a run is carried out: device, threads, residency
files         atomic writes, digests, JSON lines
moved_modules  where modules of the first layout went
paired_tests  exact and bootstrap tests over paired runs
plugins       the plug-ins of a folder, listed by the object that each defines
progress      progress bars and phase lines
schedules     settings of what changes during training: ranks, ternary, distillation
spec          the settings of a run: Plan, RunSpec, TaskSpec, TrainSpec, Site, Choice
stats         means, intervals and paired gaps
toml          TOML files and --set overrides, with line numbers in errors
"""
