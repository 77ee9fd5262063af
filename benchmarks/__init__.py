"""How fast the merges are, beside the machine's own limit and beside other tools."""
