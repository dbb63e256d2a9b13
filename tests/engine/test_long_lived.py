"""The garbage collector leaves alone what was made for good. In a process of its own, whose objects stay so."""

from __future__ import annotations

import subprocess
import sys

_PROCESS = """
import gc, weakref
from manyhats.engine.long_lived import collected_seldom, keep_for_good

class Node: pass

def cycle():
    node = Node()
    node.self = node
    return weakref.ref(node)

usual = gc.get_threshold()
with collected_seldom():
    within = gc.get_threshold()
    kept = [[] for _ in range(1000)]
    garbage = cycle()
keep_for_good()
assert within[0] > usual[0] and within[1:] == usual[1:], within
assert gc.get_threshold() == usual
assert gc.get_freeze_count() >= 1000, gc.get_freeze_count()
assert garbage() is None, "what nobody needs is collected before"
assert not any(found is kept for found in gc.get_objects())
try:
    with collected_seldom():
        raise ValueError("it could not be made")
except ValueError:
    pass
assert gc.get_threshold() == usual
"""


def test_what_is_made_for_good_is_frozen_and_the_thresholds_are_the_usual_ones_again() -> None:
    subprocess.run([sys.executable, "-c", _PROCESS], check=True, timeout=120)
