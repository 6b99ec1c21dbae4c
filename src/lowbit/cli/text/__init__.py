"""Results as tables and sentences for a terminal.

compared        claims, questions and predictions of a study
dry_run         what runs would cost
endings         how runs ended
formats         formats compared without a model
guide           a recommended format for each rank and data size
measured        sensitivities
planned         a plan under a budget
planned_layers  the formats and ranks of its matrices
predicted       predictions
"""
