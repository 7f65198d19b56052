"""Speed of jaxticket beside other ways to do the same, as ratios measured in one run."""
