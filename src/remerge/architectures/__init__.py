"""What differs between model architectures, as data: tied tensors and how modules store weights.

Nothing here loads transformers: an installed version must not decide a byte. The tests compare the
tables with it.
"""
