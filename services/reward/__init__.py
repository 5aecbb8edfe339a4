"""The reward service: a catalogue of verifiable rewards, composites of them, dry runs, and rewards that users bring.

User code runs in the sandbox only. No torch.
"""
