"""The only place that knows everything: settings, wiring, processes, CLI."""

import os

# Several roles share a machine's cores. By default OpenMP's threads spin while they wait, and on
# busy cores an inference of 25 ms took 250 to 400 ms; read once, when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
