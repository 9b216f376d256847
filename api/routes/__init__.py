"""Addresses of the API, by room."""
