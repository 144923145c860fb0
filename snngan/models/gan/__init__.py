"""GAN architectures, each a generator and a discriminator: one per file."""
