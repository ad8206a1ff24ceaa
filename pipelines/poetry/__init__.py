"""Poems: where they come from, which of them count, and what they show."""
