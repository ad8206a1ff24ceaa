"""Where a corpus comes from, one file a kind of source; each ends in the same candidates."""
