"""From a release to a checkpoint: loader, autoencoder, alignment, rectified flow, DMD2."""
