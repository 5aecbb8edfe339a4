"""Makes `moontune-tiny`: draws scenes, asks questions about them, pre-trains the base and scores it.

Run `python -m tools.tiny_base`. Everything that the base learns from is drawn here: no photograph, no handwriting.
"""
