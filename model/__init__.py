"""The symmetric model: a fused network, its losses, its trainer and its data. Never imports `tuner` or Optuna.

trainer -> network, losses, optimizer, evaluation -> corpus -> config
config.py       ModelShape and Hyperparameters, frozen and validated
stories.py      synthetic stories with gold propositions
corpus.py       reading, splitting, symbol table, ceilings, length classes
noise.py        random numbers that depend on trial, step and parameter only
parameters.py   where the numbers of K models lie
layers.py       layers over K models at once
network.py      the symmetric network
losses.py       the four components
optimizer.py    AdamW per slot
evaluation.py   component accuracy and its neighbours
trainer.py      the fused trainer
settings.py     what K slots ask of an epoch's steps
replay.py       steps recorded once and replayed, on a GPU
devices.py      where numbers lie and how they get there
checkpoint.py   saved models that name their own shape
errors.py       the ModelError tree
"""
