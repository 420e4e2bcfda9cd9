"""`make soak`: everything at once, for minutes, and nothing lost.

Syncs run while the CRM changes and fails, people edit and read through the API, clocks pass
midnight, and any process, PostgreSQL too, is killed at any moment::

    python -m tests.soak --minutes 3 --seed 1

It prints what it tried and what became of it; the exit code is 0 if, at the end, PostgreSQL
equals the CRM, no status or assessment of the bid team's is lost, and memory stayed flat. The
seed decides what is done in which order; what meets what is up to the machine.
"""
