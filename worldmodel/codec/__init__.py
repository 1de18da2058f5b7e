"""Visual codecs: frames to latents and back."""
