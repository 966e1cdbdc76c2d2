"""Corpus, training and evaluation of rondo-tiny, the small model that ships with Rondo."""
