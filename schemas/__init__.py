"""What a row is, how things are named, and what a recipe, a policy and a release are: the ground floor."""
