"""A run that is killed while it writes its fourth block; for test_record.py.

python tests/killed_run.py folder
"""

import os
import signal
import sys
from pathlib import Path

import jax
from programs import BY_ID

import bayesmix as bm

ROW = BY_ID["poisson_gamma"]
SETTINGS = {"chains": 2, "warmup": 60, "draws": 90, "progress_bar": False}


def run(path=None, key=1, args=ROW.args, start="prior", program=ROW.program, **settings):
    sampler = bm.NUTS(program, path=path, **SETTINGS | settings)
    return sampler.run(jax.random.key(key), *args, start=start)


if __name__ == "__main__":
    replace = os.replace

    def replace_and_die(source, target):
        if "block-000003" in str(target):
            Path(target).write_bytes(Path(source).read_bytes()[:-100])  # the worst: cut off
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = replace_and_die
    run(sys.argv[1])
