"""The HTTP edge: Moondream's API over our services. No torch, and no state but delivery counters (and API keys)."""
