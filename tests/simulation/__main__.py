"""Command line."""
from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from orchestrate.postgres import start_embedded
from tests.simulation.merges import Merges
from tests.simulation.world import Database, World
from tests.warehouse import Warehouse

url = start_embedded(Path("/tmp/simpg/postgres")).rsplit("/", 1)[0]
w = Warehouse(url, "migrated", Path("/tmp/simdbt"))
merges = Merges.of(w.environment(), Path("/tmp"))
database = Database(w.url, merges)
a, b = int(sys.argv[1]), int(sys.argv[2])
t0=time.process_time()
import cProfile, traceback
failed=0
def go():
    global failed
    for seed in range(a, b):
        world = World(seed, database, talk=len(sys.argv) > 3)
        try:
            world.play()
        except Exception as e:
            failed+=1
            print("SEED", seed, type(e).__name__, str(e)[:300])
            if '-v' in sys.argv or not isinstance(e, AssertionError): traceback.print_exc()
            if '-1' in sys.argv: break
if os.environ.get("PROF"):
    p=cProfile.Profile(); p.runcall(go); p.dump_stats("/tmp/sim.prof")
else: go()
print(b-a,"seeds", failed, "failed", (time.process_time()-t0)/(b-a), "cpu s a seed")
