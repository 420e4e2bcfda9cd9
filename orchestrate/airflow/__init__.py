"""The same Meltano jobs as DAGs of Airflow, for more than one machine.

`dags/` is Airflow's DAG folder and runs in Airflow's environment; the other modules run in the
project's environment. See docs/runbook.md.
"""
