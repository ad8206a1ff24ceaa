"""The stages in the order in which they run; apart and light, so that to know what is done loads no torch."""

VERSIONS = {
    "refiner": 1,
    "autoencoder": 3,
    "latents": 1,
    "decoder": 2,
    "align": 3,
    "texts": 1,
    "flow": 3,
    "trajectory": 1,
    "dmd2": 6,
}
"""Stage → a number, raised when its code changes what it would produce. Each opens what those before it wrote; those
that a recipe leaves out are skipped."""

FEATURES = ("latents", "texts")
"""Stages that train nothing: what frozen networks make of pictures and texts is kept. What comes later depends on the
networks, and not on whether that is kept."""

ASIDE = (*FEATURES, "refiner")
"""Stages on whose products those that come later do not depend."""

PHASE = "flow{}"
"""The name of a phase of the flow before the last, counted from 1."""

METRICS = "metrics.jsonl"
"""The file in a stage's folder that has a row a step."""
