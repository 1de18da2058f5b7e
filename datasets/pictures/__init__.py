"""Pictures with captions, from shards, folders, tables and packages."""
