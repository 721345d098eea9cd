"""One image file of any kind as an upright 8-bit RGB image."""
