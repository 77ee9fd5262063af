"""Recipes: what is merged with what, and everything that follows from it.

`schema` is what a person writes, `methods` what each merge method takes, `graph` resolves names,
`derive` makes the tables that `dvc.yaml` is filled from, `tables` is how stages read them, and
`pins` reads the revisions and digests that `remerge pin` writes.
"""
