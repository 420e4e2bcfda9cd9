"""The same Meltano jobs as DAGs of Airflow, for more than one machine.

`dags/` is Airflow's DAG folder and knows Airflow alone; the other modules run in the project's
own environment. See docs/runbook.md.
"""
