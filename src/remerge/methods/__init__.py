"""The merge methods: one module each, with parameters, formula, rounding and kernel."""
