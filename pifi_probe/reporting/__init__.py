"""Plots, tables and pages from plain frames and dicts; no room below is imported here."""
