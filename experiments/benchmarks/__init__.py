"""Speed of jaxticket against other ways to do the same, as ratios measured in one run."""
