"""Hyperparameter search for the symmetric model.

cli -> job, training, dashboard -> search, confirm, summary, progress -> study, definition, storage -> judges -> verdict
cli.py         commands, options and what becomes of errors
job.py         one search, from request to summary
preparation.py what it works with: device, data, storage, study, processes
search.py      the loop: ask, load a slot, train an epoch, report, judge, tell, refill
confirm.py     the best few and the baselines again, with fresh seeds; winner.py says who has won
seam.py        what the search asks of a trainer
remote.py      trainers in processes of their own
training.py    one configuration without a search
study.py       studies in a storage: naming, beginning, continuing, finding
definition.py  study definitions: TOML to a validated object
storage.py     opening a storage, and the table of curves
judges.py      when to stop a trial, as pure rules
pruning.py     the same rules as Optuna pruners
intervals.py   how far a figure may be from the truth
verdict.py     why a trial ended
summary.py     what a study has found
progress.py    what a person sees meanwhile
dashboard.py   optuna-dashboard over the storage
errors.py      the TunerError tree
"""
