"""The base of all other packages: dataclasses of a run, errors, files, statistics. No torch.

array_store   named arrays in one checked file, computed once
byte_sizes    parses sizes like 12MB
cache         the folder of cached files
errors        error classes, and suggestions of the nearest valid name
execution     how a run is carried out: device, threads, residency
files         atomic writes, digests, JSON lines
later_settings  settings newer than the first records, and their defaults
moved_modules  new paths of modules that moved since version 0.1
paired_tests  exact and bootstrap tests over paired runs
plugins       finds the plug-in files of a folder
progress      progress bars and phase lines
run_names     readable names of runs
schedules     settings that change during training: ranks, ternary weights, distillation
spec          the settings of a run: Plan, RunSpec, TaskSpec, TrainSpec, Site, Choice
stats         means, intervals and paired gaps
toml          TOML files and --set overrides, with line numbers in errors
"""
