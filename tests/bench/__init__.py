"""The benchmark: how fast this project extracts and loads, beside what else one might use.

``python -m tests.bench`` runs the same job for each contender on one machine, one PostgreSQL
and one CRM sandbox, all on loopback, in turns, and writes ``docs/benchmark.md`` and
``docs/benchmark.svg``. ``--quick`` takes a few minutes and leaves the largest size and the slow
CRM out. What the contenders need comes from ``requirements.txt``, into an environment of the
benchmark's own under ``.data/bench``; so does its database.
"""
