"""Networks: images to latents, reconstructions and boxes."""
