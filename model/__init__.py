"""The text-to-image model: U-Net, autoencoder with the light decoder, text encoder, samplers, pipeline."""
