"""A study: its declaration, its claims, its results, and the verdicts on the claims.

additions              seeds and text that were added after the declaration
cells                  cells, settings, and a cell's gap to 16 bits
checks                 checks a study's file, with an error for each mistake
claims                 claims, and the check that their seeds can decide them
execute                runs the missing runs of a study, and single runs
forecasts              the forecasts of a study, and their files
isolated_costs         measures configurations with nothing else running
make_forecast          makes one forecast from calibration text
pairing                pairs the runs of two plans, and the gain of one over the other
predict_study          makes every forecast that is not on file yet
predicted_vs_observed  every predicted gap next to the observed one
resolve                adds text or seeds until gaps are resolved
results                a study's results, read once per command
results_table          the records as one flat table
schema                 the tables of study.toml
scorecard              scores each predictor by a criterion fixed before the runs
shorthand              expands the short forms of study.toml
study                  reads a study and builds its matrix of runs
summary_rows           one row of numbers per plan
verdicts               decides claims and questions from the records
"""
