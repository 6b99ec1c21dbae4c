"""Results as tables and sentences for a terminal.

compared   claims, questions and predictions of a study
dry_run    what runs would cost
endings    how runs ended
measured   sensitivities
planned    a plan under a budget
predicted  predictions
"""
