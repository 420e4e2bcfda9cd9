"""What runs the pipeline: its database, its Meltano add-on, its log, its schedule."""
