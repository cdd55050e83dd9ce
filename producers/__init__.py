"""The ways an image comes in."""
