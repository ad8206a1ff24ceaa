"""Releases: from verdicts to shards, rows, manifest and card, and what sets two of them apart."""
