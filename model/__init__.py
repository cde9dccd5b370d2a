"""The symmetric model: a fused network, its losses, its trainer and its data. Never imports `tuner` or Optuna.

trainer -> network, losses, optimizer, evaluation -> corpus -> config

What is read
sources.py       where sentences come from; stories.py makes some up, extraction.py parses them, hub.py streams them
corpus.py        splitting by story, encoding, ceilings, length classes; description.py what data are like
vocabulary.py    the symbol table; alignment.py which token a proposition comes from
batches.py       the batches of an epoch; augmentation.py more sentences from the same ones

What is trained
config.py        ModelShape and Hyperparameters, frozen and validated
parameters.py    where the numbers of K models lie; noise.py random numbers that depend on trial, step and parameter only
layers.py        layers over K models at once; network.py the symmetric network, layout.py how propositions lie along a sentence
losses.py        the four components; softmax.py over the symbol table, shortlist.py over a part of it
optimizer.py     AdamW per slot
trainer.py       the fused trainer; settings.py what K slots ask of an epoch's steps, replay.py steps recorded once, on a GPU
devices.py       where numbers lie and how they get there

What comes of it
evaluation.py    component accuracy and its neighbours; tally.py the same story by story
probe.py         a trained model looked into
checkpoint.py    saved models that name their own shape; files.py files that are whole or not there
inference.py     a saved model at work
errors.py        the ModelError tree
"""
