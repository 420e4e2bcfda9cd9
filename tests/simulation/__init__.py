"""`make simulate`: whole worlds by seed, and both sides equal at the end of each.

One seed decides all that happens between a CRM and PostgreSQL: deals are created, changed,
deleted, renamed and hidden, transactions commit late, requests fail, processes are killed, machines
stand still, clocks jump, people edit, runs overlap. The tap's and the loader's own classes do the
work, in one thread of one process (`executor`), and dbt's own statements merge (`merges`). What
must hold is judged after each run (`ledger`), and at the end, after one more sync and reconcile::

    make simulate SEEDS=1000-2000

A failing seed prints its story, and does the same again each time.
"""
