"""What the scripts share: jobs and sizes, reports, methods by their names, transfer."""
