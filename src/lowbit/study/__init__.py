"""A study: its declaration, its claims, its records, and what they decide.

additions              seeds and text that were added later
cells                  cells, settings, and a cell's gap to 16 bits
checks                 what a study may not declare
claims                 what a claim declares, and what makes it decidable
execute                runs what a study lacks, and single runs
forecasts              predictions made before the runs, kept as files
make_forecast          how such a prediction is made
pairing                gains of one plan over another, for claims
predict_study          makes every forecast that is not on file yet
predicted_vs_observed  every predicted gap next to the observed one
resolve                adds text or seeds until gaps are resolved
results                a study's results, read once and handed on
results_table          the records as one flat table
schema                 the tables of study.toml
scorecard              how well each predictor did
shorthand              short forms in study.toml, written out
study                  a study as it is run
summary_rows           one row of numbers a plan
verdicts               claims and questions decided from the records
"""
