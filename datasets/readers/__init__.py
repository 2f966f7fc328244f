"""Readers of the formats that data sets come in.

The files come from strangers: nothing in them is executed, and a broken one is a ValueError that names it.
"""
