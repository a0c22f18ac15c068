"""Experiments that run from a name: arms, sizes and seeds as data."""
