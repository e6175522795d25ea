"""Questions and corpora, read from files."""
