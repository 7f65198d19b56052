"""The engine: compiles what learns for many replicas and runs it; it knows no tickets."""
