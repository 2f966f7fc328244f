"""The affine-combining autoencoder (ACAE), which bridges skeleton formats: `python -m ace --help`."""

from ace.autoencoder import AffineAutoencoder
from ace.fitting import default_num_latents, fit_autoencoder

__all__ = ["AffineAutoencoder", "default_num_latents", "fit_autoencoder"]
