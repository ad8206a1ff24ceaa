"""What a checkpoint can do, measured: composed scenes."""
