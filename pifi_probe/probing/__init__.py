"""Scores of every layer of a language model: held out, with intervals and a null."""
