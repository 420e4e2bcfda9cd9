"""`make soak`: everything at once, for minutes, and nothing lost.

Syncs run while the CRM changes and fails, people edit and read through the API, and any process,
PostgreSQL too, is killed at any moment. In the second half API and scheduler alone are spared, so
that they live long enough, under the same load, to show what memory they keep; and in it, it
becomes midnight, for the CRM and for the scheduler, which has a night's work to begin::

    python -m tests.soak --minutes 5 --seed 1

It prints what it tried and what became of it; the exit code is 0 if, at the end, PostgreSQL
equals the CRM, no status or assessment of the bid team's is lost, the night's sync was run, and
memory stayed flat. The seed decides what is done in which order; what meets what is up to the
machine.
"""
