"""What every package uses: errors, files, paths, names and the terminal.

May import nothing of this package, and no numpy, pandas or torch.
Begin with `errors`, for how the project says that something is wrong; `paths`, for where things are.
"""
