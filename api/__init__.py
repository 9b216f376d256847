"""The front door and composition root: HTTP API, pages and the `kezek-server` command."""
