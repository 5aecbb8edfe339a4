"""The services: applications run from the tree or an image, never installed. They never import each other."""
