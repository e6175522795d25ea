"""Turn-level credit inside other libraries' trainers, one file a library."""
