"""Image files, domain folders, splits and their check."""
