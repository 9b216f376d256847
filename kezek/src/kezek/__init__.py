"""Client of the Kezek compute platform: SDK and command line."""
