"""Run the pipeline: Meltano's add-on, the schedule, the deployment."""
