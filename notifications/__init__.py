"""Alerts: find out what is wrong with the syncs, and notify the services of NOTIFY_URLS.

The scheduler and the API check at intervals (`watcher`), and each run checks at its end
(`run_end`). Problems are incidents in the database (`incidents`). A file keeps the outage of the
database itself (`outage`).
"""
