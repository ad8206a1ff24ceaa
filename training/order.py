"""The stages in the order in which they run; apart and light, so that to know what is done loads no torch."""

VERSIONS = {"autoencoder": 2, "decoder": 1, "align": 2, "flow": 2, "dmd2": 3}
"""Stage → a number, raised when its code changes what it would produce. Each opens what those before it wrote; those
that a recipe leaves out are skipped."""

PHASE = "flow{}"
"""The name of a phase of the flow before the last, counted from 1."""

METRICS = "metrics.jsonl"
"""The file in a stage's folder that has a row a step."""
