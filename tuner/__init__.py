"""Hyperparameter search for the symmetric model.

cli -> job, training, dashboard -> search, confirm, summary, progress -> study, definition, storage -> judges -> verdict

What is asked for
cli.py           commands and what becomes of errors; cli_study.py, cli_view.py, cli_model.py the smaller ones, options.py what they share,
                 signals.py how they end
job.py           one search, from request to summary; preparation.py what it works with, crew.py its further processes
training.py      one configuration without a search
forecast.py      what a search would cost
errors.py        the TunerError tree

The search
search.py        the loop: ask, load a slot, train an epoch, report, judge, tell, refill
admission.py     whether a trial may begin now; budget.py when the budget is used up, pace.py what fits into the minutes that are left,
                 vanguard.py which of the first large trials go ahead where that is little
intake.py        where trials come from; starters.py the first, climb.py and promotion.py what is tried next, warm.py what an earlier study
                 teaches
arrays.py        the arrays of a device; slots.py their trials, lanes.py arrays side by side, width.py how many at once
seam.py          what the search asks of a trainer; trainers.py finds one, saving.py is ours, single.py makes one from models without slots
remote.py        trainers in processes of their own; remote_end.py the other end, wire.py the messages between them
failures.py      what may go wrong in an epoch, and whose fault it is
bench.py         where trials are judged, peers.py by whom they are measured; endings.py what is stored when they end
states.py        the state of a search; snapshots.py where it lies until it is resumed, ownership.py which process owns a running trial
observer.py      what observers are told of a search
ray_engine.py    workers across machines

The judging
verdict.py       why a trial ended
judges.py        when to stop a trial, as pure rules; pruning.py the same as Optuna pruners
diagnosis.py     where in a study's space the plateau is left; faults.py what is wrong with one run, inspection.py looks into it
intervals.py     how far a figure may be from the truth; comparison.py how sure a mean is
confirm.py       the best few and the baselines again, with fresh seeds; halfway.py goes on with runs that were broken off, tested.py
                 remembers the uses of the test split; winner.py says who has won

What is stored
definition.py    study definitions: TOML to a validated object; space.py what a setting can be
study.py         studies in a storage: naming, beginning, continuing, finding
storage.py       opening a storage, waiting for it, the lock under which trials begin
buffer.py        one process's view of a storage; patient.py waits where it is away, tables.py what is read and written in batches
artifacts.py     models and snapshots where other machines find them

What is seen
summary.py       what a study has found; choice.py one trial as something that can be run
progress.py      the terminal while a search runs; watch.py the same from another, events.py as JSON
metrics.py       figures for Prometheus; health.py whether a search makes progress, doctor.py whether this machine has what it needs
views.py         a study gathered for display; charts.py says what is drawn, plots.py and pictures.py draw it,
                 report.py writes it into one file
dashboard.py     optuna-dashboard over the storage; gate.py who may come in, display.py and publish.py what we add to what it shows
"""
