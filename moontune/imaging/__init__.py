"""Encoded bytes to pixels to crops: one decoder with limits, one resampler (PIL's LANCZOS). numpy out, no torch."""
