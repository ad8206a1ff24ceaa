"""From a release to a checkpoint: batches, features, autoencoder, alignment, rectified flow, DMD2."""
