"""The benchmark: extract and load of this project, compared with alternatives.

``python -m tests.bench`` runs the same job for each contender in turns, on one machine with one
PostgreSQL and one CRM sandbox, all on loopback. It writes ``docs/benchmark.md`` and
``docs/benchmark.svg``. ``--quick`` takes a few minutes: it skips the largest size and the slow
CRM. The benchmark has its own environment, from ``requirements.txt``, and its own database, both
under ``.data/bench``.
"""
