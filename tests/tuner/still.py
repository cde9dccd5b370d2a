"""A trainer that ends its process before that has begun."""

import os
import sys

from tests.tuner.script import ScriptedTrainer

if "remote_end" in sys.argv[0]:
    os._exit(5)


class Still(ScriptedTrainer):
    """Never made."""
