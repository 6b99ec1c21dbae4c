"""A study: its declaration, its claims, its records, and what they decide.

additions              seeds and text that were added later
cells                  runs grouped by plan and setting, paired seed by seed
checks                 what a study may not declare
claims                 one plan against another, and the tests that decide
execute                runs what a study lacks, and single runs
forecasts              predictions made before the runs, kept as files
make_forecast          how such a prediction is made
pairing                gains over paired runs
predicted_vs_observed  every predicted gap next to the observed one
results                a study's results, read once and handed on
results_table          the records as one flat table
schema                 the tables of study.toml
scorecard              how well each predictor did
shorthand              short forms in study.toml, written out
study                  a study as it is run
summary_rows           one row of numbers a plan
verdicts               what the records decide
"""
