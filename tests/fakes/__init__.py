"""Small real things for tests."""
