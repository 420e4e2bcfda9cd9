"""The CRM sandbox: an HTTP server that behaves as Oracle Fusion CRM's REST API does.

It stands in for the real CRM in the demo, the tests and the benchmark::

    python -m tests.sandbox --port 8899 --records 1000 --seed 1

listens on 127.0.0.1 and prints its address, user and token endpoint. ``--journal FILE``
keeps what changed, so that a restart is the same CRM; ``--replay FILE`` refuses what a real CRM
refused, as ``make probe SAVE=FILE`` saw it. Environment: ``SANDBOX_PORT``,
``SANDBOX_RECORDS``, ``SANDBOX_SEED``, ``SANDBOX_USER`` (``sandbox``), ``SANDBOX_PASSWORD``
(``sandbox-password``), ``SANDBOX_CLIENT_ID`` (``sandbox-client``), ``SANDBOX_CLIENT_SECRET``
(``sandbox-secret``). Tests use :class:`tests.sandbox.client.Sandbox`.

It serves ``/crmRestApi/resources/{latest|11.13.18.05|11.12.1.0}/`` with ``opportunities``
(children ``ChildRevenue``, ``OpportunityResource`` and its view ``OpportunityTeam``),
``accounts`` and ``resources``, their items and ``describe``, ``optyStatusesLOV``, and ``POST
/oauth2/v1/token``. The data are the same for the same seed,
number of records and hour; hostile as real data are, and all loadable. Only the account's
own few open deals are seen without ``finder=MyOpportunitiesFinder;RecordSet='ALLOPTIES'``.

The control interface, JSON in and out, no authentication, not counted as requests:

=======  ======================================  ===============================================
method   path under ``/_sandbox/``               does
=======  ======================================  ===============================================
GET      ``opportunities`` (``?fields=A,B``)     all rows as lines of JSON, as the CRM knows them
                                                 (poison not shown); likewise ``accounts``,
                                                 ``resources``, ``ChildRevenue``,
                                                 ``OpportunityResource``
GET      ``opportunities/{OptyId}``              one row
POST     ``opportunities``                       creates: ``{"Name": ..., "at": stamp}``, all
                                                 optional, the rest is invented
PATCH    ``opportunities/{OptyId}``              changes; LastUpdateDate is now, ``at``, or given;
                                                 any resource or child by its key
DELETE   ``opportunities/{OptyId}``              removes without a trace; any resource
POST     ``opportunities/{OptyId}/close``        ``{"status": "WON"|"LOST"|"NO_SALE"|"CLOSED"}``
POST     ``opportunities/{OptyId}/reopen``       opens again
POST     ``mutate``                              random rows, each changed in one way:
                                                 ``{"create", "update", "delete", "close",
                                                 "reopen", "seed", "at"}`` → OptyIds by kind
POST     ``mass-update``                         ``{"count", "at"}``: one LastUpdateDate for all
POST     ``poison``                              ``{"OptyId", "kind", "touch": true}``: what the
                                                 wire shows, kinds in :mod:`.poison`
DELETE   ``poison/{OptyId}``                     heals (``{"touch": true}``)
POST     ``attributes``                          ``{"name", "type", "values", "resource"}``: a new
                                                 custom attribute, values dealt out over the
                                                 rows; or a list of such
PATCH    ``attributes/{name}``                   ``{"type"}`` and/or ``{"name"}``
DELETE   ``attributes/{name}``                   takes it away
POST     ``faults``                              a rule or a list of rules, :mod:`.faults`:
                                                 ``{"kind": "throttle", "next": 3, ...}``
GET      ``faults``                              the rules, each with ``seen`` and ``fired``
DELETE   ``faults``                              none any more
POST     ``hooks``                               ``{"after": n, "next": 1, "commands": [{"method",
                                                 "path", "body"}]}``: commands given once a page
                                                 has been read, before it is sent
GET      ``hooks``                               likewise
DELETE   ``hooks``                               likewise
PATCH    ``settings``                            :class:`.protocol.Settings`: page cap, default
                                                 record set, what is visible or forbidden, which
                                                 parts of a request are refused, timestamp
                                                 format, token life...
GET      ``settings``                            all of them
POST     ``clock``                               ``{"offset_seconds"}`` against the machine's
POST     ``tokens/expire``                       all bearer tokens become invalid
GET      ``requests``                            ``total``, ``by_kind``, ``by_status`` (0: cut),
                                                 ``rows``, ``bytes``, ``connections``,
                                                 ``max_concurrent`` and the ``last`` 500
DELETE   ``requests``                            counts from zero
POST     ``reset``                               ``{"records", "seed", "now"}``: generated data
                                                 again, no faults, default settings
=======  ======================================  ===============================================

An error is 400 or 404 with ``{"error": ...}``.
"""
