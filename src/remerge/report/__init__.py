"""What a build says about itself: an HTML report, tables for plots, a model card.

`build` holds what was read, `page` draws it, `plots` and `card` write it down for DVC and the hub.
"""
