"""The starter policy: its tokenizer, the demonstrations it learns from, and the recipe that trains it."""
