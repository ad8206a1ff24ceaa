"""Moves rows between the tables of a corpus: crawl, fetch, dedupe, measure, caption, decide, release."""

import os
import secrets

# Ray and albumentations read these when they are imported, so they stand before any other import of the package.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
if not os.environ.get("RAY_ADDRESS"):
    # Loopback alone; otherwise Ray learns its own address by opening a socket to a public name server.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    # Other users of this machine reach the loopback ports too, so a token of this process guards them.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
