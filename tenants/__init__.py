"""Who: organisations, projects, users, roles and tokens."""
