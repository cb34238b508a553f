"""Where a fitted network goes when it leaves: modules and plain records in, files out."""
