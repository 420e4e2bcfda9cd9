"""`make soak`: everything at once, for minutes, and nothing lost.

Syncs run while the CRM changes and fails, people edit and read through the API, and any process,
even PostgreSQL, is killed at any moment. In the second half, API and scheduler are not killed, so
that they run long enough under the same load to show their memory. In this half it also becomes
midnight, for the CRM and the scheduler, which then starts the nightly jobs::

    python -m tests.soak --minutes 5 --seed 1

It prints the actions and their results. The exit code is 0 if, at the end, PostgreSQL equals the
CRM, no status or assessment of the bid team is lost, the nightly sync has run, and memory did not
grow. The seed decides the actions and their order, but not their exact times.
"""
