"""Hyperparameter search for the symmetric model.

cli -> job, training, dashboard -> search, study, summary, progress -> definition, storage -> pruning -> verdict
cli.py         commands, options and what becomes of errors
job.py         one search, from request to summary
search.py      the loop: ask, load a slot, train an epoch, report, judge, tell, refill
seam.py        what the search asks of a trainer
training.py    one configuration without a search
study.py       studies in a storage: naming, beginning, continuing, finding
definition.py  study definitions: TOML to a validated object
storage.py     opening a storage, and the table of curves
pruning.py     when to stop a trial, as pure rules and as Optuna pruners
verdict.py     why a trial ended
summary.py     what a study has found
progress.py    what a person sees meanwhile
dashboard.py   optuna-dashboard over the storage
errors.py      the TunerError tree
"""
