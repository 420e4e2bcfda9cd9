"""What runs the pipeline: its Meltano add-on, its schedule, its deployment."""
