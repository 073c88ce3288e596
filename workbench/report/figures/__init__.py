"""The figures: small functions from numbers to SVG strings.

Plots stretch to the width they are given while strokes and text keep their size, so that one figure serves a phone and
a wall: shapes stand in a ``viewBox`` with ``preserveAspectRatio="none"``, labels in an SVG without one, in percent.
"""
