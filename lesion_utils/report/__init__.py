"""What a reader opens: the index page, the notebooks as pages, comparisons of reports, the README's block.

May import `notebooks` and the packages below it.
Begin with `index`, the page; `content`, what it is made from.
"""
