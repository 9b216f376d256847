"""One MetaData, one engine, one journal, one clock, one migration history."""
