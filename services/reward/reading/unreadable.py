"""Why an output could not be read."""


class Unreadable(Exception):
    """The answer cannot be read as what is graded; the sample gets the reward's least value and the reason is told."""
