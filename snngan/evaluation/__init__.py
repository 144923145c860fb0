"""How good is a generator, and are two sets of images the same? Figures that say what they are."""
