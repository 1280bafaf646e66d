"""A device: its own store, its own say in what it answers, and recommendations that need no network."""
