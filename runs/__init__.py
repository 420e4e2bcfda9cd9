"""Runs of the pipeline: their register, what is recorded of them, starting and cancelling.

`registry` gives each `meltano run` its row in `public.sync_runs` and its number; `recorder`
writes what happens in it; `control` starts and cancels runs for the API and the scheduler. The
views `run_logs` and `sync_logs` show it all. Only `meltano_runs` touches Meltano's own table.
"""
