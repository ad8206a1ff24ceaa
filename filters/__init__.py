"""Measures: a batch of pictures or captions in, columns out. No Ray, no paths of a corpus, no thresholds."""
