"""Scripts that reproduce the figures and tables of the sources: `python -m experiments.PAPER.NAME`.

`README.md` in this folder lists them; `python -m experiments.run_queue` runs them at paper or
reduced size.
"""
