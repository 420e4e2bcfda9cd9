"""What Airflow runs, for those who have outgrown one machine: the same Meltano jobs.

`dags/` is Airflow's DAG folder and knows Airflow alone; the other modules run in the project's
own environment. See docs/runbook.md.
"""
