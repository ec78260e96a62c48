"""What was made from what: the steps of a study, fingerprints of code, records of runs, and their verification.

May import the packages below it, and no numpy, pandas or torch.
Begin with `steps`, the study as a list; then `record`, what `run.json` says.
"""
