"""The methods of the papers: each a choice of relaxation, objective, constraint and schedules."""
