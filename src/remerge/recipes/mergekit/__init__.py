"""mergekit's YAML, the language in which people write merges.

`references` reads how it names models, `reading` checks a file and says what each document means,
`planning` finds the models and makes the merge tables.
"""
