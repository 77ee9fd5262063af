"""Output shards: the units of work that fill them, the folder that they become."""
