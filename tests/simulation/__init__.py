"""`make simulate`: simulate worlds by seed, and compare both sides at the end of each.

One seed decides all events between a CRM and PostgreSQL: deals are created, changed, deleted,
renamed and hidden, transactions commit late, requests fail, processes are killed, machines freeze,
clocks jump, people edit, runs overlap. The tap's and the loader's own classes do the work, in one
thread of one process (`executor`), and dbt's own statements merge (`merges`). `ledger` checks the
rules after each run, and at the end, after one more sync and reconcile::

    make simulate SEEDS=1000-2000

A failing seed prints its story. It has the same story each time.
"""
