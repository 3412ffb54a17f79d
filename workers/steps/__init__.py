"""The steps of a prune job and of an inspection, one file each."""
