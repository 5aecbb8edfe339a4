"""The reward service: a catalogue of verifiable rewards, composites of them, and dry runs. No torch, no state."""
