"""Transfer: tickets trained in another setting, on other data, at another depth."""
