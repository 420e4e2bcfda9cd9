"""Runs of the pipeline: register, record, start and cancel them.

`registry` gives each `meltano run` its row in `public.sync_runs` and its number; `recorder`
writes its progress; `control` starts and cancels runs for the API and the scheduler. The views
`run_logs` and `sync_logs` show all runs. Only `meltano_runs` touches Meltano's own table.
"""
